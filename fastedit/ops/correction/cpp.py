"""A step that fills by a clock and takes back what is doubted, in C++."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.library import BLOCKS, LOGITS, BlockFields, check, load, logits_fields

_ARGUMENTS = Struct(f"{LOGITS}{BLOCKS}7P")  # fe_correction_args


def correction_step_(
    blocks: Blocks,
    logits: Tensor,
    turn: Tensor,
    *,
    settings: tuple[Tensor, ...],
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.correction_step_`."""
    read = [tensor.contiguous() for tensor in settings]
    held = BlockFields(blocks, turn)
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        *held.fields,
        *map(Tensor.data_ptr, read),
        *held.others,
    )
    check(load().fe_correction_step(arguments, torch.get_num_threads()))
    held.back()
