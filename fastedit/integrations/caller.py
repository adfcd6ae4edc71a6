"""What the caller of transformers gave, where transformers does not hand it on.

A `custom_generate` callable gets a merged generation config and prepared inputs. Neither says what
the caller asked for and what a checkpoint brought along, and some arguments (`streamer`,
`assistant_model`, `synced_gpus`, ...) never arrive. They are read from the frames that called it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from transformers import Pipeline
from transformers.generation import GenerationMixin

_GENERATE = inspect.unwrap(GenerationMixin.generate)
_NAMES = [
    name for name in inspect.signature(_GENERATE).parameters if name not in ("self", "kwargs")
]


def transformers_call(model: Any) -> dict[str, Any] | None:
    """Arguments of the `GenerationMixin.generate` of `model` that is running, by name.

    Without what it takes out for a callable, without `tokenizer`, and with the generation config as
    it has been merged. None where no such call is running.
    """
    for frame in _frames():
        if frame.f_code is _GENERATE.__code__ and frame.f_locals["self"] is model:
            values = frame.f_locals
            return {name: values[name] for name in _NAMES} | values["kwargs"]
    return None


def pipeline_tokenizer(model: Any) -> Any:
    """The tokenizer of the transformers pipeline that is running `model`; None without one."""
    for frame in _frames():
        owner = frame.f_locals.get("self") if frame.f_code.co_name == "_forward" else None
        if isinstance(owner, Pipeline) and any(model is part for part in owner.model.modules()):
            return owner.tokenizer
    return None


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
