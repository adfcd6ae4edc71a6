"""Fast-dLLM's rule: fill every mask that the model is sure of, and the best one in any case.

Sources: arXiv 2505.22618; `generate` of NVlabs/Fast-dLLM; the factor rule as copied in the Saber
repository, `decoding.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.policies.base import Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer, number, probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("confidence")
@dataclass(frozen=True)
class Confidence(Policy):
    """Fills masks by the probability of their best tokens, at least one per forward.

    rule       "threshold": all masks with a confidence of at least `threshold`;
               "factor": the n best ones, n as large as possible while the j-th best of them has a
               confidence of at least 1 - factor / (j + 1), for all j from 2 on;
               "schedule": the masks that the block began with, over `steps` forwards; the first
               ones take one more
    steps      None = as many as the block has positions
    quirk      of rule "factor": if of several masks only the worst fails, it is filled as well, as
               released. So two masks always leave together

    A block takes at most as many forwards as it has masks.
    """

    rule: str = choice("threshold", "factor", "schedule")  # type: ignore[assignment]
    threshold: float = probability(0.9)
    factor: float = number(1.0, span=(0.0, 3.0))
    steps: int | None = integer(None, least=1, optional=True, span=(1, 32))
    quirk: bool = choice(False, True)

    judges_tokens = False
    fills = True

    @property
    def stateless(self) -> bool:  # type: ignore[override]
        return self.rule != "schedule"

    def decide(self, stats: Stats, view: View) -> Write:
        p, masked = view.parameters, view.masked()
        if self.rule == "threshold":
            fill = highest(stats.prob, masked, 1, above=p.threshold, inclusive=True)
        elif self.rule == "factor":
            fill = highest(stats.prob, masked, self._passing(stats.prob, view, p.factor))
        else:
            steps = torch.where(p.steps > 0, p.steps, view.length)
            began = view.contents().masks + view.counts.m2t_commits
            count = began // steps + (view.counts.forwards < began % steps)
            fill = highest(stats.prob, masked, count)
        ids = torch.where(fill, stats.token, view.ids)
        return Write(ids, torch.ones_like(view.done))  # once no mask is left

    def unread(self) -> frozenset[str]:
        read = {"factor": {"factor", "quirk"}, "schedule": {"steps"}}.get(self.rule, {"threshold"})
        return frozenset({"threshold", "factor", "quirk", "steps"} - read)

    def most_forwards(self, length: int) -> int:
        return length

    def _passing(self, prob: Tensor, view: View, factor: Tensor) -> Tensor:
        """How many of the best masks pass, int64 [n]; at least one."""
        masked, _, masks, _ = view.contents()
        ranked = prob.masked_fill(~masked, -1.0).sort(dim=-1, descending=True).values
        place = torch.arange(1, prob.shape[1] + 1, device=prob.device)
        fails = (ranked < 1.0 - factor[:, None] / (place + 1)) & (place > 1)
        passing = torch.where(fails, place - 1, prob.shape[1]).amin(-1)
        if self.quirk:
            passing = passing + (passing == masks - 1)
        return passing
