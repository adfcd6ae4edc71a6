"""Row statistics in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import LOGITS, check, load, logits_fields
from fastedit.ops.row_stats import RowStats

_ARGUMENTS = Struct(LOGITS + "qPd6P")  # fe_row_stats_args


def row_stats(
    logits: Tensor, current: Tensor, *, forbid: tuple[int, ...], temperature: float, entropy: bool
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    rows = logits.shape[0]
    current = current.contiguous()
    token = torch.empty_like(current)
    prob = logits.new_empty(rows, dtype=torch.float32)
    prob_current, lse = torch.empty_like(prob), torch.empty_like(prob)
    spread = torch.empty_like(prob) if entropy else None
    bad = torch.empty_like(token, dtype=torch.bool)
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        rows,
        current.data_ptr(),
        temperature,
        token.data_ptr(),
        prob.data_ptr(),
        prob_current.data_ptr(),
        lse.data_ptr(),
        0 if spread is None else spread.data_ptr(),
        bad.data_ptr(),
    )
    check(load().fe_row_stats(arguments, torch.get_num_threads()))
    return RowStats(token, prob, prob_current, lse, spread, bad)
