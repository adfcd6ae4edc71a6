"""LLaDA2.2's decision step in C++."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.joint_threshold_indel import InDelState
from fastedit.ops.library import LOGITS, check, load, logits_fields

_ARGUMENTS = Struct(LOGITS + "3q2P4q18P")  # fe_indel_args


def joint_threshold_indel_step_(
    ids: Tensor,
    logits: Tensor,
    editable: Tensor,
    state: InDelState,
    *,
    mask_token_id: int,
    delete_token_id: int,
    insert_token_id: int,
    threshold: Tensor,
    editing_threshold: Tensor,
    max_post_steps: int,
) -> None:
    """Contract: `fastedit.ops.joint_threshold_indel_step_`."""
    written = (ids, *state.tensors())
    dense = [tensor.contiguous() for tensor in written]
    read = [tensor.contiguous() for tensor in (editable, threshold, editing_threshold)]
    pointers = [tensor.data_ptr() for tensor in (*dense, *read)]
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, ()),
        *ids.shape,
        state.seen.shape[1],
        pointers[0],
        pointers[-3],
        mask_token_id,
        delete_token_id,
        insert_token_id,
        max_post_steps,
        *pointers[-2:],
        *pointers[1:-3],
    )
    check(load().fe_joint_threshold_indel_step(arguments, torch.get_num_threads()))
    for tensor, new in zip(written, dense, strict=True):
        if new is not tensor:
            tensor.copy_(new)
