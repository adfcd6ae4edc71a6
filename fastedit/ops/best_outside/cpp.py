"""The best token outside a set in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import LOGITS, NUMBERS, check, load, logits_fields, numbers_fields

_ARGUMENTS = Struct(f"{LOGITS}2q{NUMBERS}2q3P")  # fe_best_outside_args


def best_outside(
    logits: Tensor, excluded: Tensor, only: Tensor | None, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Contract: `fastedit.ops.best_outside`."""
    shape, length = excluded.shape[:-1], max(logits.shape[-2], 1)
    token = logits.new_empty(shape, dtype=torch.int64)
    prob = logits.new_empty(shape, dtype=torch.float32)
    only = None if only is None else only.contiguous()
    lists = excluded[..., 0] if excluded.shape[-1] else None  # the first id of each
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        token.numel(),
        length,
        *numbers_fields(lists, length),
        excluded.shape[-1],
        excluded.stride(-1),
        0 if only is None else only.data_ptr(),
        token.data_ptr(),
        prob.data_ptr(),
    )
    check(load().fe_best_outside(arguments, torch.get_num_threads()))
    return token, prob
