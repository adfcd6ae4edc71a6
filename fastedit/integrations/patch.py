"""`fastedit.patch`: the released `generate` of LLaDA2.x, with the same results at our speed."""

from __future__ import annotations

import functools
import types
from dataclasses import replace
from typing import Any, TypeVar

from fastedit.integrations import styles
from fastedit.integrations.released import released_generate
from fastedit.models.families import Family, row_of

Model = TypeVar("Model")
# What callers of the released `generate` give themselves.
_OPEN: dict[str, Any] = {"mask_token_id": None, "block_length": None}


def patch(model: Model) -> Model:
    """Give `model` the released LLaDA2.1 `generate` as a bound method; returns the model.

    On a model of transformers it also takes calls in transformers' style, which decode by token
    editing as well (see `styles`); another `custom_generate` still goes to transformers.

    The model is called with a bool 4-D attention mask and a transformers Cache; pass
    `use_cache=False` to `generate` for a model that cannot use one.

    Raises ValueError for a model that is known to be of another family.
    """
    _check_family(model)

    @functools.wraps(released_generate)
    def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
        return styles.generate(model, *args, **kwargs)

    model.generate = types.MethodType(generate, model)  # type: ignore[attr-defined]
    return model


def _check_family(model: Any) -> None:
    """What is not known at all decodes as LLaDA2.x does."""
    row, released = row_of(getattr(model, "config", None)), Family()
    if row is not None and replace(row.family, **_OPEN) != replace(released, **_OPEN):
        raise ValueError(
            f"fastedit.patch gives LLaDA2.1's released generate, and this model is {row.name}: use "
            "fastedit.Decoder(model, tokenizer).generate, or model.generate(..., "
            "custom_generate=fastedit.integrations.transformers.generate)"
        )
