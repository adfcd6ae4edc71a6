"""Correction by scores: tokens that are probably wrong become masks again.

Sources: mode "threshold" is Algorithm 1 of arXiv 2601.06428, as ported by others; mode "rank" is
the released `inference.py` of RemeDi (arXiv 2509.23653).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer, probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("correction")
@dataclass(frozen=True)
class Correction(Policy):
    """Fills masks evenly over `steps`, and takes back the tokens with the highest error scores.

    fill    how masks are filled: "low_confidence", the surest first
    scorer  "head": the error probability of a correction head; "confidence": that the held token is
            not the one that the model would draw, 1 - p
    stride, budget, tau  every `stride` forwards, at most `budget` tokens whose error is above `tau`
            (strict), the highest first
    ring    of so many remasked positions, the last ones, none is remasked
    steps   forwards that fill a block; None = as many as it has positions
    mode    "threshold", as above; "rank": each forward keeps the positions with the highest logits,
            tokens and filled masks alike, and masks all others; one more share of them per step

    Each remask moves the schedule back by the time that one fill takes; a block takes at most three
    times `steps`. In mode "rank" it takes exactly `steps`, and nothing but `steps` matters.
    """

    fill: str = choice("low_confidence")
    scorer: str = choice("head", "confidence")
    stride: int = integer(4, least=1)
    budget: int = integer(2)
    tau: float = probability(0.75)
    ring: int = integer(4)
    steps: int | None = integer(None, least=1, optional=True, span=(1, 32))
    mode: str = choice("threshold", "rank")

    buffers: ClassVar[Mapping[str, Buffer]] = {
        "turn": Buffer(torch.int32, initial=-(2**31))  # of the last remask, counted in the block
    }
    may_reach_bound = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        if self.mode == "rank":
            return frozenset({"logit"})
        return frozenset({"score" if self.scorer == "head" else "current"})

    @property
    def needs_training(self) -> str | None:  # type: ignore[override]
        if self.mode == "rank":
            return "to give wrong tokens low logits (RemeDi)"
        return "with a correction head" if self.scorer == "head" else None

    def rule(self, stats: Stats, view: View) -> Write:
        return self._ranked(stats, view) if self.mode == "rank" else self._corrected(stats, view)

    def unread(self) -> frozenset[str]:
        of_scores = frozenset({"scorer", "stride", "budget", "tau", "ring"})
        return of_scores if self.mode == "rank" else frozenset()

    def most_forwards(self, length: int) -> int:
        steps = self.steps or length
        return steps if self.mode == "rank" else 3 * steps

    def _steps(self, view: View) -> Tensor:
        return torch.where(view.parameters.steps > 0, view.parameters.steps, view.length)

    def _ranked(self, stats: Stats, view: View) -> Write:
        assert stats.logit is not None and stats.logit_current is not None
        masked, tokens, masks, held = view.contents()
        may, steps = masked | tokens, self._steps(view)
        taken, length = view.counts.forwards + 1, masks + held
        over = length % steps  # one more position in each of the last `over` steps
        count = length // steps * taken + (taken - steps + over).clamp_(min=0)
        score = torch.where(masked, stats.logit, stats.logit_current)
        keep = highest(score, may, count)
        ids = torch.where(masked, stats.token, view.ids)
        return Write(torch.where(keep, ids, view.mask_token_id), taken >= steps)

    def _corrected(self, stats: Stats, view: View) -> Write:
        p, counts, (masked, tokens, masks, held) = view.parameters, view.counts, view.contents()
        steps, length = self._steps(view), masks + held
        # The time left, of which `length` passes per forward and `steps` are worth a mask.
        time = steps * (masks + counts.m2t_commits) - length * counts.forwards
        after = (time - length).clamp_(min=0)
        fill = highest(stats.prob, masked, masks - (2 * after + steps) // (2 * steps))

        error = stats.scores if self.scorer == "head" else 1.0 - stats.prob_current
        assert error is not None
        turn, turns = view.buffers.turn, counts.remasks[:, None]
        wrong = tokens & (error > p.tau[:, None]) & (turn < turns - p.ring[:, None])
        due = (counts.forwards % p.stride == 0) & (after > 0)
        remask = highest(error, wrong, p.budget * due)

        ids = torch.where(fill, stats.token, view.ids).masked_fill_(remask, view.mask_token_id)
        turn = torch.where(remask, turns + remask.cumsum(-1) - 1, turn)
        return Write(ids, after == 0, {"turn": turn})
