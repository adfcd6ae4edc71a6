"""GIDD's self-correction: the tokens that the model is surest to want otherwise are replaced.

Source: arXiv 2503.04482; the released `self_correction.py` of dvruette/gidd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import HOTTEST, choice, integer, number
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("self_correction")
@dataclass(frozen=True)
class SelfCorrection(Policy):
    """Each forward draws a token for every position and writes those of the highest probability,
    among positions that hold another one.

    temperature  of the draws and their probabilities
    k            tokens that a forward writes at most
    patience     forwards without more agreement than ever before, behind which one more ends the
                 block and writes nothing; agreement is how many positions hold the best token
    max_steps    forwards that correct a block at most
    greedy       write best tokens in place of draws

    It is meant for a complete text, a draft. Masks are filled first, by the same measure, and no
    token changes while there are some. A block takes at most a forward per mask, and `max_steps`.
    """

    temperature: float = number(0.1, most=HOTTEST)
    k: int = integer(1, least=1)
    patience: int = integer(32)
    max_steps: int = integer(128, least=1)
    greedy: bool = choice(False, True)

    needs_training = "on texts with random wrong tokens (uniform noise)"
    buffers: ClassVar[Mapping[str, Buffer]] = {
        name: Buffer(torch.int32, per_position=False) for name in ("steps", "most_agreed", "waited")
    }

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset() if self.greedy else frozenset({"sample"})

    def heat(self, view: View) -> Tensor:
        return view.parameters.temperature

    def rule(self, stats: Stats, view: View) -> Write:
        p, kept, ids = view.parameters, view.buffers, view.ids
        masked, _, masks, _ = view.contents()
        wanted, prob = (
            (stats.token, stats.prob) if self.greedy else (stats.sample, stats.sample_prob)
        )
        assert wanted is not None and prob is not None
        may, filling = view.may_change(), masks > 0
        other = torch.where(filling[:, None], masked, (wanted != ids) & may)
        write = highest(prob, other, p.k)
        new = torch.where(write, wanted, ids)

        agreed = ((new == stats.token) & may).sum(-1, dtype=torch.int32)
        better = agreed > kept.most_agreed
        waited = torch.where(better | filling, 0, kept.waited + 1)
        steps = kept.steps + ~filling
        tired = waited > p.patience
        done = tired | (steps >= p.max_steps) | ~write.any(-1)  # once no mask is left
        most = torch.where(filling, 0, torch.maximum(agreed, kept.most_agreed))
        return Write(
            torch.where(tired[:, None], ids, new),
            done & ~filling,
            {"steps": steps, "most_agreed": most, "waited": waited},
        )

    def most_forwards(self, length: int) -> int:
        return length + self.max_steps
