"""The best token outside a set as a Triton kernel."""

from __future__ import annotations

from fastedit_kernels import best_outside as kernel
from torch import Tensor

from fastedit.ops.launch import on


def best_outside(
    logits: Tensor, excluded: Tensor, only: Tensor | None, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Contract: `fastedit.ops.best_outside`."""
    only = None if only is None else only.contiguous()
    with on(logits.device):
        return kernel.best_outside(logits, excluded, only, forbid)
