"""Row statistics as a Triton kernel."""

from __future__ import annotations

from fastedit_kernels import row_stats as kernel
from torch import Tensor

from fastedit.ops.launch import on
from fastedit.ops.row_stats import RowStats


def row_stats(
    logits: Tensor, current: Tensor, *, forbid: tuple[int, ...], temperature: float, entropy: bool
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    with on(logits.device):
        return RowStats(*kernel.row_stats(logits, current, forbid, temperature, entropy))
