"""Highest scores in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import check, load

_ARGUMENTS = Struct("2q5P3qP")  # fe_highest_args


def highest(
    score: Tensor,
    among: Tensor,
    count: Tensor,
    above: Tensor | None,
    inclusive: bool,
    judged: Tensor,
) -> Tensor:
    """Contract: `fastedit.ops.highest`."""
    score, judged, among = score.contiguous(), judged.contiguous(), among.contiguous()
    count = count.contiguous()
    if count.dtype not in (torch.int32, torch.int64):
        count = count.long()
    out = torch.empty_like(among)
    if above is not None:
        above = above.contiguous()
    arguments = _ARGUMENTS.pack(
        *score.shape,
        score.data_ptr(),
        judged.data_ptr(),
        among.data_ptr(),
        count.data_ptr(),
        0 if above is None else above.data_ptr(),
        count.element_size(),
        0 if above is None else above.element_size(),
        inclusive,
        out.data_ptr(),
    )
    check(load().fe_highest(arguments))
    return out
