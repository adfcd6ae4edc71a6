"""Statistics of a vocabulary shard in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import LOGITS, check, load, logits_fields

_ARGUMENTS = Struct(LOGITS + "q5P")  # fe_row_partials_args


def row_partials(logits: Tensor, *, forbid: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Contract: `fastedit.ops.row_partials`; the fields in order, ids within the shard."""
    rows = logits.shape[0]
    kinds = (*[torch.float32] * 3, torch.int64, torch.bool)
    fields = tuple(logits.new_empty(rows, dtype=kind) for kind in kinds)
    pointers = [field.data_ptr() for field in fields]
    arguments = _ARGUMENTS.pack(*logits_fields(logits, forbid), rows, *pointers)
    check(load().fe_row_partials(arguments, torch.get_num_threads()))
    return fields
