"""ProSeCo: every few steps the model corrects its own completed draft before masks are filled.

Source: arXiv 2602.11590; the released `generate` of kuleshov-group/proseco.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer, probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("proseco")
@dataclass(frozen=True)
class ProSeCo(Policy):
    """Fills masks; before every so many fills, corrector passes go over the completed text.

    every      steps from one corrector loop to the next, counted in the block
    passes     corrector passes of a loop at most; one that changes nothing is the last. 0 = none
    threshold  masks with this confidence or a higher one are filled, at least one; None = `steps`
    steps      forwards of a block's schedule, without corrector passes; None = one per mask
    scope      which tokens the corrector may replace: "block", those of the active block, or
               "generated", those of all blocks so far

    A loop begins with the best token in place of every mask, those of later blocks included where
    the scope has them. What its last pass says replaces the tokens, and fills the masks of the
    step. A block takes at most a forward per position, and `passes` for every loop.
    """

    every: int = integer(2, least=1)
    passes: int = integer(4)
    threshold: float | None = probability(None, optional=True, absent=math.inf)
    steps: int | None = integer(None, least=1, optional=True, span=(1, 32))
    scope: str = choice("block", "generated")

    needs_training = "to correct complete texts"
    buffers: ClassVar[Mapping[str, Buffer]] = {
        "step": Buffer(torch.int32, per_position=False),
        "passed": Buffer(torch.int32, per_position=False),  # the pass that comes; 0: none
        "tried": Buffer(torch.int64, initial=-1),  # what it is shown; -1: what is held
    }

    @property
    def wide(self) -> bool:  # type: ignore[override]
        return self.scope == "generated"

    def shown(self, view: View) -> Tensor:
        tried = view.buffers.tried
        return torch.where(tried >= 0, tried, view.ids)

    def rule(self, stats: Stats, view: View) -> Write:
        p, kept = view.parameters, view.buffers
        masked, tokens, left, _ = view.contents()
        may, shown = view.may_change(), self.shown(view)
        correcting = kept.passed > 0
        passing = correcting[:, None]
        step = kept.step + ~correcting

        over = torch.where(passing, may, view.ids == view.mask_token_id)
        canvas = torch.where(over, stats.token, shown)
        fresh = (step % p.every == 0) & (left > 0)
        loop = (canvas != shown).any(-1) & torch.where(correcting, True, fresh)
        loop &= kept.passed < p.passes

        masks = left + view.counts.m2t_commits  # when the block began
        steps = torch.where(p.steps > 0, p.steps, masks).clamp_(min=1)
        count = masks // steps + (step <= masks % steps)
        count = torch.where(p.threshold < torch.inf, 1, count)
        fill = highest(stats.prob, masked, count, above=p.threshold, inclusive=True)
        change = (fill | (tokens & passing)) > loop[:, None]  # of booleans: and not
        write = {
            "step": step,
            "passed": (kept.passed + 1) * loop,
            "tried": canvas.masked_fill_(~loop[:, None], -1),
        }
        ids = torch.where(change, stats.token, view.ids)
        return Write(ids, ~loop, write)  # once no mask is left

    def unread(self) -> frozenset[str]:
        return frozenset() if self.threshold is None else frozenset({"steps"})

    def most_forwards(self, length: int) -> int:
        return length + self.passes * (length // self.every)
