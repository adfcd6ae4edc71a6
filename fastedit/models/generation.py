"""Where a native model's `generate` finds the code that decodes, which lives above the models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_generate: Callable[..., Any] | None = None


def register(function: Callable[..., Any]) -> None:
    """Let `function(model, *args, **kwargs)` be the `generate` of native models."""
    global _generate
    _generate = function


def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    """What is registered, on `model`. Raises RuntimeError where nothing is."""
    if _generate is None:
        raise RuntimeError("no decoding code is registered; `import fastedit` registers its own")
    return _generate(model, *args, **kwargs)
