"""LLaDA2.0's rule, and its kin: fill the best masks of every forward, and change no token.

Sources: the released LLaDA2.0 loop and SGLang's `LowConfidence`; entropy and margin ranks as in the
Saber repository's decoders; schedule "dream" as in Dream's `_sample` (arXiv 2508.15487).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.policies.base import Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer, probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("low_confidence")
@dataclass(frozen=True)
class LowConfidence(Policy):
    """Fills a scheduled number of masks per forward, or all above a threshold where they are more.

    threshold  masks with a higher confidence are filled together (strict); 1 = never. Schedule
               "dream" has none
    steps      forwards of a block's schedule; None = as many as it has positions
    rank       what makes a mask good: "confidence" p1, "entropy" (low), "margin" p1 - p2
    schedule   "even": the positions of a block over its steps, the first ones take one more;
               "dream": the share of masks that leaves at times which fall evenly from 1 to `eps`
    eps        last time of schedule "dream"

    A block takes at most `steps` forwards, and never more than it has positions under "even".
    """

    threshold: float = probability(0.95)
    steps: int | None = integer(None, least=1, optional=True, span=(1, 32))
    rank: str = choice("confidence", "entropy", "margin")
    schedule: str = choice("even", "dream")
    eps: float = probability(1e-3)

    judges_tokens = False
    fills = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"entropy": ["entropy"], "margin": ["top_k"]}.get(self.rank, []))

    def rule(self, stats: Stats, view: View) -> Write:
        p, masked = view.parameters, view.masked()
        score, forward = self.score(stats), view.counts.forwards
        steps = torch.where(p.steps > 0, p.steps, view.length)
        if self.schedule == "dream":
            fill = highest(score, masked, _leaving(view.contents().masks, forward, steps, p.eps))
        else:
            count = view.length // steps + (forward < view.length % steps)
            fill = highest(score, masked, count, above=p.threshold, judged=stats.prob)
        ids = torch.where(fill, stats.token, view.ids)
        return Write(ids, torch.ones_like(view.done))  # once no mask is left

    def unread(self) -> frozenset[str]:
        return frozenset({"threshold" if self.schedule == "dream" else "eps"})

    def most_forwards(self, length: int) -> int:
        if self.schedule == "dream":
            return self.steps or length
        return length

    def score(self, stats: Stats) -> Tensor:
        """Masks with the highest are filled first, [n, L]."""
        if self.rank == "entropy":
            assert stats.entropy is not None
            return -stats.entropy
        if self.rank == "margin":
            assert stats.top_probs is not None
            return stats.top_probs[..., 0] - stats.top_probs[..., 1]
        return stats.prob


def _leaving(masks: Tensor, forward: Tensor, steps: Tensor, eps: Tensor) -> Tensor:
    """Of `masks` [n], how many are filled in this forward of Dream's schedule; all in the last."""
    now, after = (_time(forward + ahead, steps, eps) for ahead in (0, 1))
    count = (masks * (1.0 - after / now)).int()
    return torch.where(forward + 1 >= steps, masks, count)


def _time(step: Tensor, steps: Tensor, eps: Tensor) -> Tensor:
    """`torch.linspace(1, eps, steps + 1)[step]` in fp32, which counts from the nearer end."""
    width = (eps - 1.0) / steps
    return torch.where(step < (steps + 1) // 2, 1.0 + width * step, eps - width * (steps - step))
