"""Adapters trained with one linear module per expert, as the released code has them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from fastedit.models.experts import fuse_experts

_NAME = re.compile(r"(?P<experts>.+\.mlp\.experts)\.(?P<expert>\d+)\.(?P<part>\w+_proj)\.")


@contextlib.contextmanager
def adapted_modules(model: Any, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Within, `model` has a linear module for every expert's projection that `tensors` name.

    Their weights are slices of the fused ones, and what they hold at the end is what these hold
    then. Whole weights of all experts of a layer are fused in `tensors` and need no module.
    """
    made = _linears(model, tensors)
    try:
        yield
        for experts, expert, part, stored in made:
            weight = experts.get_submodule(f"{expert}.{part}").weight.data
            if weight.data_ptr() != stored.data_ptr():
                stored.copy_(weight)
    finally:
        for experts, expert, *_ in made:
            experts._modules.pop(expert, None)


def _linears(model: nn.Module, tensors: dict[str, Tensor]) -> list[tuple]:
    layers = {m["experts"] for m in map(_NAME.match, tensors) if m}
    modules: dict[str, Any] = {
        name: module for name, module in model.named_modules() if name in layers
    }
    for name, module in modules.items():
        tensors.update(fuse_experts(tensors, f"{name}.", module.num_experts))
    wanted = {(m["experts"], m["expert"], m["part"]) for m in map(_NAME.match, tensors) if m}
    made = []
    for name, expert, part in sorted(wanted):
        stored = _slice(modules[name], int(expert), part) if name in modules else None
        if stored is None:
            continue  # no such expert here: its tensors will be found to have no place
        experts = modules[name]
        if expert not in experts._modules:
            experts.add_module(expert, nn.Module())
        linear = nn.Linear(stored.shape[1], stored.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(stored, requires_grad=False)
        experts.get_submodule(expert).add_module(part, linear)
        made.append((experts, expert, part, stored))
    return made


def _slice(experts: Any, expert: int, part: str) -> Tensor | None:
    """The rows of an expert's projection in the fused weights: a view [O, I], or None."""
    if expert >= experts.num_experts:
        return None
    gate, up = experts.gate_up_proj.data[expert].chunk(2)
    down = experts.down_proj.data[expert]
    return {"gate_proj": gate, "up_proj": up, "down_proj": down}.get(part)
