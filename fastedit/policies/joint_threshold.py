"""LLaDA2.1's rule: commit confident masks and replace tokens that have a confident rival.

Source: the released LLaDA2.1 decoding loop; LLaDA2.1 report (arXiv 2602.08676), equations 1-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastedit import ops
from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import integer, probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("joint_threshold")
@dataclass(frozen=True)
class JointThreshold(Policy):
    """Masks commit above one threshold, tokens are replaced above another; both strict.

    threshold          masks with a higher confidence commit
    editing_threshold  tokens whose rival has a higher confidence are replaced; None = off, 0.0 =
                       every change
    max_post_steps     forwards that a block may take once it has no mask
    num_to_transfer    least number of commits per forward, as long as there are masks

    A block takes at most a forward per mask, and `max_post_steps` more.
    """

    threshold: float = probability(0.7)
    editing_threshold: float | None = probability(0.5, optional=True, absent=math.inf)
    max_post_steps: int = integer(16)
    num_to_transfer: int = integer(1, least=1)

    buffers: ClassVar[Mapping[str, Buffer]] = {
        "post_steps": Buffer(torch.int32, per_position=False)
    }
    fills = True
    stateless = True

    @property
    def needs_training(self) -> str | None:  # type: ignore[override]
        return None if self.editing_threshold is None else "to replace wrong tokens (T2T)"

    def rule(self, stats: Stats, view: View) -> Write:
        p, (masked, _, masks, _) = view.parameters, view.contents()
        had_mask = masks > 0
        spent = ~had_mask & (view.buffers.post_steps >= p.max_post_steps)
        commit = highest(stats.prob, masked, p.num_to_transfer, above=p.threshold)
        edit = ~masked & (stats.prob > p.editing_threshold[:, None])
        change = (commit | edit) & ~spent[:, None]
        ids = torch.where(change, stats.token, view.ids)

        post = view.buffers.post_steps + (~had_mask & ~spent).int()
        unchanged = ((ids == view.ids) | ~view.may_change()).all(-1)
        done = (~had_mask & unchanged) | (post >= p.max_post_steps)
        return Write(ids, done, {"post_steps": post})

    def bad(self, stats: Stats, view: View) -> Tensor:
        """Without editing, nobody looks at tokens."""
        edits = view.parameters.editing_threshold < torch.inf
        return stats.bad & (view.masked() | edits[:, None])

    def most_forwards(self, length: int) -> int:
        return length + self.max_post_steps

    def twin(self, view: View) -> Callable[[Tensor, bool], bool]:
        """`ops.joint_threshold_step_` on the tensors of `view`."""
        ids, sampling, counts = view.ids, view.sampling, view.counts
        strict, mask = view.strict, view.mask_token_id
        settings: Any = {name: view.parameters[name] for name in JointThreshold.parameters()}
        state = ops.StepState(
            view.buffers.post_steps,
            counts.forwards,
            counts.m2t_commits,
            counts.t2t_edits,
            *(view.done, view.dirty, view.bad),
        )

        def step_(logits: Tensor, draws: bool) -> bool:
            tokens = (ids != mask) if strict else None
            ops.joint_threshold_step_(
                ids,
                logits,
                view.may_change(),
                state,
                mask_token_id=mask,
                strict_reference=strict,
                sampling=sampling if draws else None,
                **settings,
            )
            if tokens is not None:  # the operation counts tokens that became masks among the edits
                masked = (tokens & (ids == mask)).sum(-1, dtype=torch.int32)
                counts.t2t_edits.sub_(masked)
                counts.remasks.add_(masked)
            return True

        return step_
