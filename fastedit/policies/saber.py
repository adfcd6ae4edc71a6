"""Saber: fill what is surer than tokens were so far, and take back what gained the least.

Source: arXiv 2510.18165; the released decoders of the Saber repository.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import choice, integer
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("saber")
@dataclass(frozen=True)
class Saber(Policy):
    """Fills masks that are surer than the mean of all fills was, and remasks some tokens.

    least  masks that a forward fills at least; half of them is remasked at least
    mu     of the fills of a forward, one in `mu` is remasked, rounded up; never all of them
    scope  which tokens may be remasked, and are in the mean: "block", those of the active block, or
           "generated", those of all blocks so far; None is the latter in a model in which every
           position sees every other

    Tokens go whose positions' best probability has risen the least, or fallen the most, since the
    forward before, whatever token they hold. A block takes at most a forward per position.
    """

    least: int = integer(2, least=1)
    mu: int = integer(8, least=1)
    scope: str | None = choice(None, "block", "generated")

    fills = True
    buffers: ClassVar[Mapping[str, Buffer]] = {
        "filled": Buffer(initial=-1.0),  # probability at the last fill; -1: never filled
        "before": Buffer(),  # best probability in the forward before; -inf: not in the scope then
    }

    @property
    def wide(self) -> bool:  # type: ignore[override]
        return self.scope == "generated"

    def within(self, full: bool) -> Saber:
        scope = self.scope or ("generated" if full else "block")
        return dataclasses.replace(self, scope=scope)

    def rule(self, stats: Stats, view: View) -> Write:
        p, kept = view.parameters, view.buffers
        masked, tokens, masks, _ = view.contents()
        # In fp64 the sum is exact. Before the first fill it is 0 / 0: nothing is above that.
        total = kept.filled.clamp(min=0.0).sum(-1, dtype=torch.float64)
        mean = total / (kept.filled >= 0.0).sum(-1)
        fill = highest(stats.prob, masked, p.least, above=mean)

        filled = fill.sum(-1)
        count = torch.maximum(filled, p.least)
        most = torch.maximum(p.least // 2, (count + p.mu - 1) // p.mu)
        most = torch.minimum(most, count - 1) * (filled < masks)
        known = (tokens | fill) & (kept.before > -torch.inf)
        remask = highest(kept.before - stats.prob, known, most)

        ids = torch.where(fill, stats.token, view.ids).masked_fill_(remask, view.mask_token_id)
        write = {
            "filled": torch.where(fill, stats.prob, kept.filled),
            "before": stats.prob.masked_fill(~(masked | tokens), -torch.inf),
        }
        return Write(ids, torch.ones_like(view.done), write)  # once no mask is left

    def most_forwards(self, length: int) -> int:
        return length
