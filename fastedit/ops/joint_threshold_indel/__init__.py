"""LLaDA2.2's decision step on a CPU: commits, edits, inserts and deletes, in place."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation
from fastedit.ops.logits import check_logits


@dataclass(frozen=True)
class InDelState:
    """What B blocks of L positions carry from step to step.

    post_steps   int32 [B]  steps that began without a mask that the block began with
    forwards, m2t_commits, t2t_edits, remasks, inserts, deletes  int32 [B], counts
    done, dirty, bad  bool [B], as of `StepState`
    original     bool [B, L]  masks that the block began with, and the tokens that they became
    seen         int64 [B, K, L]  what each step so far saw, of at most K
    written      int64 [B, K, L]  what it wrote there, -1 for nothing
    source       int64 [B, L]  of the last step: where the token stood before it, -1 for a new mask
    inserted, deleted  int64 [B, L], of the last step: positions before it with a mask put before
                 them, and those taken out

    Raises ValueError for tensors that do not fit `seen`, and for tensors elsewhere than on a CPU.
    """

    post_steps: Tensor
    forwards: Tensor
    m2t_commits: Tensor
    t2t_edits: Tensor
    remasks: Tensor
    inserts: Tensor
    deletes: Tensor
    done: Tensor
    dirty: Tensor
    bad: Tensor
    original: Tensor
    seen: Tensor
    written: Tensor
    source: Tensor
    inserted: Tensor
    deleted: Tensor

    def __post_init__(self) -> None:
        if self.seen.ndim != 3:
            raise ValueError(f"seen must be int64 [B, K, L]; got {list(self.seen.shape)}")
        blocks, _, length = self.seen.shape
        for field in fields(self):
            dtype, dims = _FORMS.get(field.name, (torch.int32, 1))
            shape = ((blocks,), (blocks, length), self.seen.shape)[dims - 1]
            _check(field.name, getattr(self, field.name), dtype, shape)

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


# Fields that are no counts per block: what they hold, and how many dimensions they have.
_FORMS = {
    **dict.fromkeys(("done", "dirty", "bad"), (torch.bool, 1)),
    "original": (torch.bool, 2),
    **dict.fromkeys(("source", "inserted", "deleted"), (torch.int64, 2)),
    **dict.fromkeys(("seen", "written"), (torch.int64, 3)),
}


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
    """One greedy decision for B blocks; `ids` [B, L] int64 and `state` change in place.

    logits    [B, L, V] fp32, bf16 or fp16: logits[b, i] predicts ids[b, i]
    editable  [B, L] bool; False marks what never changes and stays where it is
    threshold, editing_threshold  fp32 [B]; inf is off

    The rule is that of `policies.JointThresholdInDel`, which is also what serves a GPU and whatever
    draws. Blocks that are done are not read, nor are positions that could not change. Raises
    ValueError for what does not fit `logits` or `state`, and for tensors elsewhere than on a CPU: a
    back end may look at their values.
    """
    shape = check_logits(logits, 3)
    if shape[:2] != ids.shape or logits.device.type != "cpu":
        raise ValueError(
            f"logits must be [{ids.shape[0]}, {ids.shape[1]}, V] on the CPU, a row for each of the "
            f"ids; got {list(logits.shape)} on {logits.device}"
        )
    _check("ids", ids, torch.int64, state.original.shape)
    _check("editable", editable, torch.bool, ids.shape)
    for name, value in (("threshold", threshold), ("editing_threshold", editing_threshold)):
        _check(name, value, torch.float32, ids.shape[:1])
    implementation("joint_threshold_indel_step_", "cpu")(
        ids,
        logits,
        editable,
        state,
        mask_token_id=mask_token_id,
        delete_token_id=delete_token_id,
        insert_token_id=insert_token_id,
        threshold=threshold,
        editing_threshold=editing_threshold,
        max_post_steps=max_post_steps,
    )


def _check(name: str, value: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Back ends take bare addresses: what does not fit must not reach them."""
    if value.shape != shape or value.dtype != dtype or value.device.type != "cpu":
        raise ValueError(
            f"{name} must be {dtype} {list(shape)} on the CPU; "
            f"got {value.dtype} {list(value.shape)} on {value.device}"
        )
