"""Triton's interpreter, without what takes it half of its time."""

from __future__ import annotations

from typing import Any


def patch_once_per_launch() -> None:
    """The language is patched for the functions of a module once in a launch, not in every call."""
    from triton.runtime import interpreter

    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    scopes: dict[int, Any] = {}

    def once(function: Any) -> Any:
        module = id(function.__globals__)
        if module not in scopes:
            scopes[module] = patch(function)
        return scopes[module]

    def from_the_start(self: Any, *args: Any, **kwargs: Any) -> Any:
        scopes.clear()  # a launch sets back what it has patched
        return launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = once, from_the_start
