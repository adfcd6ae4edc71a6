"""LLaDA2.1's rule: commit confident masks and replace tokens that have a confident rival."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fastedit import ops


@dataclass(frozen=True)
class JointThreshold:
    """Per-row settings of N rows, on the device, and the rule that uses them.

    threshold, editing_threshold [N] fp32 (inf = off); max_post_steps, num_to_transfer [N] int32.
    """

    threshold: Tensor
    editing_threshold: Tensor
    max_post_steps: Tensor
    num_to_transfer: Tensor

    def __getitem__(self, rows: slice) -> JointThreshold:
        return JointThreshold(*(setting[rows] for setting in vars(self).values()))

    def step_(
        self,
        ids: Tensor,
        logits: Tensor,
        editable: Tensor,
        state: ops.StepState,
        *,
        mask_token_id: int,
        strict_reference: bool,
        sampling: ops.Sampling | None,
    ) -> None:
        """One step for N blocks; shapes as in `ops.joint_threshold_step_`."""
        ops.joint_threshold_step_(
            ids,
            logits,
            editable,
            state,
            mask_token_id=mask_token_id,
            threshold=self.threshold,
            editing_threshold=self.editing_threshold,
            max_post_steps=self.max_post_steps,
            num_to_transfer=self.num_to_transfer,
            strict_reference=strict_reference,
            sampling=sampling,
        )
