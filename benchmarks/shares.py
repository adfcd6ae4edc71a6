"""Where the time of a loop around a model goes, by kind of module."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

KINDS = {
    "Linear": "products",
    "RMSNorm": "norms",
    "Attention": "attention, its rotation and cache",
    "MLP": "activations",
}
REST = "embedding, sums, masks and positions"
LOOP = "decision and loop"


def shares(model: Any, call: Callable[[], Any]) -> dict[str, float]:
    """Of the seconds of `call`, the share of each kind; a module without those inside it."""
    spent: Counter[str] = Counter()
    open_: list[list[float]] = []  # began, seconds of the modules inside

    def enter(*_: Any) -> None:
        open_.append([time.perf_counter(), 0.0])

    def leave(module: nn.Module, *_: Any) -> None:
        began, inside = open_.pop()
        whole = time.perf_counter() - began
        spent[_kind(module)] += whole - inside
        if open_:
            open_[-1][1] += whole

    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave))
    began = time.perf_counter()
    call()
    whole = time.perf_counter() - began
    for hook in hooks:
        hook.remove()
    spent[LOOP] = whole - spent.total()
    return {kind: spent[kind] / whole for kind in (*KINDS.values(), REST, LOOP)}


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    return next((kind for end, kind in KINDS.items() if name.endswith(end)), REST)
