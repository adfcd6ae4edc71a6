"""T2M: tokens that the model has come to doubt become masks again, and are filled anew.

Source: arXiv 2604.18738; the released `generate` and edit step of synsis/remasked_DLM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit import ops
from fastedit.ops.remask import TRIGGERS
from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer, probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("remask")
@dataclass(frozen=True)
class Remask(Policy):
    """Fills masks as joint threshold does; a trigger turns doubtful tokens back into masks.

    trigger          "low_prob": the token's probability is below `tau`; "t2t": another token's is
                     above it; "logit_diff": the token's has fallen by more than `tau`
    cap              how often a position may be remasked
    share            of the block's tokens that one forward may remask, at least one; 1 = no limit
    threshold, num_to_transfer, max_post_steps  as of joint threshold

    A forward that sees no token forgets how often each position was remasked, and what
    probabilities there were. So a block takes at most a forward per mask and per allowed remask,
    and that again after each forward without a mask.
    """

    trigger: str = choice(*TRIGGERS)
    tau: float = probability(0.3)
    cap: int = integer(1)
    share: float = probability(0.25, dtype=torch.float64)
    threshold: float = probability(0.7)
    max_post_steps: int = integer(16)
    num_to_transfer: int = integer(1, least=1)

    needs = frozenset({"current"})

    @property
    def buffers(self) -> Mapping[str, Buffer]:  # type: ignore[override]
        kept = {
            "post_steps": Buffer(torch.int32, per_position=False),
            "remasked": Buffer(torch.int32),
        }
        if self.trigger != "logit_diff":
            return kept
        # Probability of the token that is held, in the last forward that saw one; -1: in none.
        return kept | {"before": Buffer(torch.float32, initial=-1.0)}

    def rule(self, stats: Stats, view: View) -> Write:
        p, kept = view.parameters, view.buffers
        masked, tokens, masks, held = view.contents()
        had_mask, had_token = masks > 0, held > 0
        spent = (kept.post_steps >= p.max_post_steps) > had_mask  # of booleans: and not

        doubted, score = self._doubts(stats, view, p.tau[:, None])
        doubted &= tokens
        doubted &= kept.remasked < p.cap[:, None]
        most = (held * p.share).long().clamp_(min=1).masked_fill_(spent, 0)
        remask = highest(score, doubted, most)

        fill = highest(stats.prob, masked, p.num_to_transfer, above=p.threshold)
        ids = torch.where(fill, stats.token, view.ids)
        ids = ids.masked_fill_(remask, view.mask_token_id)

        post = kept.post_steps + (had_mask == spent)  # which are never both true
        done = (post >= p.max_post_steps) >= had_mask  # once no mask is left
        write = {"post_steps": post, "remasked": (kept.remasked + remask) * had_token[:, None]}
        if self.trigger == "logit_diff":
            prob = torch.where(fill, stats.prob, stats.prob_current)
            write["before"] = torch.where(had_token[:, None], prob, -1.0)
        return Write(ids, done, write)

    def twin(self, view: View) -> Callable[[Tensor, bool], bool] | None:
        """`ops.remask_step_` on the tensors of `view`, where these are on a CPU."""
        if view.ids.device.type != "cpu":
            return None
        kept, settings = view.buffers, view.parameters

        def step_(logits: Tensor, draws: bool) -> bool:
            if draws or not ops.serves("remask_step_", "cpu"):
                return False
            ops.remask_step_(
                view.changing(),
                logits,
                **kept,
                trigger=self.trigger,
                strict_reference=view.strict,
                **settings,
            )
            return True

        return step_

    def most_forwards(self, length: int) -> int:
        return length * (1 + self.cap) * (1 + self.max_post_steps) + self.max_post_steps

    def _doubts(self, stats: Stats, view: View, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens the trigger would remask, and a score [n, L] whose highest go first."""
        if self.trigger == "low_prob":
            return stats.prob_current < tau, -stats.prob_current
        if self.trigger == "t2t":
            return (stats.prob > tau) & (stats.token != view.ids), stats.prob
        before = view.buffers.before
        drop = before - stats.prob_current
        return (drop > tau) & (before >= 0.0), drop
