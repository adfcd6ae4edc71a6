"""`fastedit.patch`: the released `generate` of LLaDA2.x, with the same results at our speed."""

from __future__ import annotations

import functools
import types
from typing import Any, TypeVar

from fastedit.integrations import styles
from fastedit.integrations.released import released_generate

Model = TypeVar("Model")


def patch(model: Model) -> Model:
    """Give `model` the released LLaDA2.1 `generate` as a bound method; returns the model.

    On a model of transformers it also takes calls in transformers' style, which decode by token
    editing as well (see `styles`); another `custom_generate` still goes to transformers.

    The model is called with a bool 4-D attention mask and a transformers Cache; pass
    `use_cache=False` to `generate` for a model that cannot use one.
    """

    @functools.wraps(released_generate)
    def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
        return styles.generate(model, *args, **kwargs)

    model.generate = types.MethodType(generate, model)  # type: ignore[attr-defined]
    return model
