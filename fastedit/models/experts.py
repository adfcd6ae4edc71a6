"""Experts of a layer: one tensor per expert on disk, and all of them in one tensor in memory."""

from __future__ import annotations

from torch import Tensor

FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def fuse(parts: list[list[Tensor]]) -> Tensor:
    """Projections, each one [O, I] per expert or a single merged [E, O, I] -> [E, sum of O, I]."""
    parts = [list(part[0]) if part[0].ndim == 3 else part for part in parts]
    rows = sum(part[0].shape[0] for part in parts)
    # Filled in place: stacking and then concatenating would hold a layer's experts three times.
    fused = parts[0][0].new_empty(len(parts[0]), rows, parts[0][0].shape[1])
    start = 0
    for part in parts:
        for expert, tensor in enumerate(part):
            fused[expert, start : start + len(tensor)] = tensor
        start += len(part[0])
    return fused


def fuse_experts(tensors: dict[str, Tensor], prefix: str, num_experts: int) -> dict[str, Tensor]:
    """Take a layer's experts under Hub names out of `tensors`; returns them under fused names.

    `prefix` is the name of the experts module with its final dot. Names that are incomplete stay.
    """
    fused = {}
    for target, sources in FUSED.items():
        names = [
            [f"{prefix}{expert}.{source}.weight" for expert in range(num_experts)]
            for source in sources
        ]
        if all(name in tensors for row in names for name in row):
            fused[prefix + target] = fuse([[tensors.pop(name) for name in row] for row in names])
    return fused
