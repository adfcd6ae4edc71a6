"""The joint-threshold step as a Triton kernel."""

from __future__ import annotations

from fastedit_kernels import joint_threshold as kernel
from torch import Tensor

from fastedit.ops.joint_threshold import StepState, reference
from fastedit.ops.launch import on
from fastedit.ops.sampling import Sampling


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
    if ids.numel() == 0:  # blocks without positions still count their steps
        reference.joint_threshold_step_(
            ids,
            logits,
            editable,
            state,
            mask_token_id=mask_token_id,
            threshold=threshold,
            editing_threshold=editing_threshold,
            max_post_steps=max_post_steps,
            num_to_transfer=num_to_transfer,
            forbid=forbid,
            sampling=sampling,
        )
        return
    fields = [field.contiguous() for field in state.fields()]
    with on(logits.device):
        kernel.joint_threshold_step_(
            ids,
            logits,
            editable,
            fields,
            mask_token_id,
            threshold.contiguous(),
            editing_threshold.contiguous(),
            max_post_steps.contiguous(),
            num_to_transfer.contiguous(),
            forbid,
            sampling and [value.contiguous() for value in vars(sampling).values()],
        )
    for field, new in zip(state.fields(), fields, strict=True):
        if new is not field:  # it was strided
            field.copy_(new)
