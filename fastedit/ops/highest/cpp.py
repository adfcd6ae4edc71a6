"""Highest scores in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import check, load

_ARGUMENTS = Struct("2q4PqP")  # fe_highest_args


def highest(score: Tensor, among: Tensor, count: Tensor, unless: Tensor | None) -> Tensor:
    """Contract: `fastedit.ops.highest`."""
    score, among, count = score.contiguous(), among.contiguous(), count.contiguous()
    if count.dtype not in (torch.int32, torch.int64):
        count = count.long()
    out = torch.empty_like(among)
    if unless is not None:
        unless = unless.contiguous()
    arguments = _ARGUMENTS.pack(
        *score.shape,
        score.data_ptr(),
        among.data_ptr(),
        0 if unless is None else unless.data_ptr(),
        count.data_ptr(),
        count.element_size(),
        out.data_ptr(),
    )
    check(load().fe_highest(arguments))
    return out
