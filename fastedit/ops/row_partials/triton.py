"""Statistics of a vocabulary shard as a Triton kernel."""

from __future__ import annotations

from fastedit_kernels import row_partials as kernel
from torch import Tensor

from fastedit.ops.launch import on


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    with on(logits.device):
        return kernel.row_partials(logits, forbid)
