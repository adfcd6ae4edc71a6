"""Draft and corrupt in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.draft_and_corrupt import DraftKey
from fastedit.ops.library import LOGITS, check, load, logits_fields

_ARGUMENTS = Struct(LOGITS + "q5P8qf6P")  # fe_draft_args


def draft_and_corrupt(
    logits: Tensor,
    xt: Tensor,
    x0: Tensor,
    eligible: Tensor,
    key: DraftKey,
    *,
    mask_token_id: int,
    forbid: tuple[int, ...],
    temperature: float,
    mask_below: int,
    drafted_below: int,
    visible_below: int,
    region: int,
) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.draft_and_corrupt`; the fields of `Drafted` in order."""
    rows = logits.shape[0]
    read = [tensor.contiguous() for tensor in (xt, x0, eligible, key.example, key.position)]
    fields = (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.uint8),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty((), dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.bool),
    )
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        rows,
        *[tensor.data_ptr() for tensor in read],
        key.seed,
        key.epoch,
        key.turn,
        mask_token_id,
        mask_below,
        drafted_below,
        visible_below,
        region,
        temperature,
        *[field.data_ptr() for field in fields],
    )
    check(load().fe_draft_and_corrupt(arguments, torch.get_num_threads()))
    return fields
