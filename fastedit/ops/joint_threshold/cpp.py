"""The joint-threshold step in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.joint_threshold import StepState
from fastedit.ops.library import LOGITS, check, load, logits_fields
from fastedit.ops.sampling import Sampling

_ARGUMENTS = Struct(LOGITS + "2q2Pq11P5P")  # fe_step_args
_NO_DRAWS = (0,) * 5  # every row is greedy


def joint_threshold_step_(
    ids: Tensor,
    logits: Tensor,
    editable: Tensor,
    state: StepState,
    *,
    mask_token_id: int,
    threshold: Tensor,
    editing_threshold: Tensor,
    max_post_steps: Tensor,
    num_to_transfer: Tensor,
    forbid: tuple[int, ...],
    sampling: Sampling | None,
) -> None:
    """Contract: `fastedit.ops.joint_threshold_step_`."""
    written = (ids, *state.fields())
    settings = (threshold, editing_threshold, max_post_steps, num_to_transfer)
    draws = () if sampling is None else sampling.fields()
    read = (editable, *settings, *draws)
    if all(map(Tensor.is_contiguous, written + read)):
        _step(logits, forbid, mask_token_id, written, read)
        return
    dense = tuple(map(Tensor.contiguous, written))
    _step(logits, forbid, mask_token_id, dense, tuple(map(Tensor.contiguous, read)))
    for tensor, new in zip(written, dense, strict=True):
        if new is not tensor:
            tensor.copy_(new)


def _step(
    logits: Tensor,
    forbid: tuple[int, ...],
    mask_token_id: int,
    written: tuple[Tensor, ...],
    read: tuple[Tensor, ...],
) -> None:
    """`written`: ids and the fields of a state; `read`: the other tensors; all are dense."""
    ids, *state = map(Tensor.data_ptr, written)
    editable, *settings = map(Tensor.data_ptr, read)
    arguments = _ARGUMENTS.pack(
        *logits_fields(logits, forbid),
        *written[0].shape,
        ids,
        editable,
        mask_token_id,
        *settings[:4],
        *state,
        *(settings[4:] or _NO_DRAWS),
    )
    check(load().fe_joint_threshold_step(arguments, torch.get_num_threads()))
