"""Row statistics as a Triton kernel."""

from __future__ import annotations

from fastedit_kernels import row_stats as kernel
from torch import Tensor

from fastedit.ops.launch import on
from fastedit.ops.row_stats import RowStats, by_rows
from fastedit.ops.sampling import RowDraws


@by_rows
def row_stats(
    logits: Tensor,
    current: Tensor,
    *,
    forbid: tuple[int, ...],
    temperature: float | Tensor,
    entropy: bool,
    top_k: int,
    draws: RowDraws | None,
    only: int | None,
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    if isinstance(temperature, Tensor):
        temperature = temperature.contiguous()
    keys = None if draws is None else [field.contiguous() for field in draws.fields()]
    purpose = 0 if draws is None else draws.purpose
    with on(logits.device):
        return RowStats(
            *kernel.row_stats(
                logits,
                current.contiguous(),
                forbid,
                temperature,
                entropy,
                top_k,
                keys,
                purpose,
                only,
            )
        )
