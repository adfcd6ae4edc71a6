"""WINO: many masks are filled at once, and tokens that do not hold up unseen are taken back.

Source: arXiv 2507.18578, as ported in the Saber repository's decoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastedit.policies.base import Buffer, Policy, Stats, View, Write
from fastedit.policies.fields import probability
from fastedit.policies.primitives import highest
from fastedit.policies.registry import register


@register("wino")
@dataclass(frozen=True)
class Wino(Policy):
    """Fills every mask above a threshold, and remasks tokens that their shadow rows doubt.

    threshold         masks with a higher confidence are filled (strict): at least one, and of m
                      masks at most 0.7 m, which counts as 5 where it is less and as 20 where more
    verify_threshold  tokens of earlier forwards that have a lower probability (strict) where they
                      are not seen themselves become masks again, if more than one mask is filled

    A forward remasks fewer tokens than the one before it filled, the least probable ones; so a
    block takes at most a forward per position. Each forward has a second row for every position.
    """

    threshold: float = probability(0.6)
    verify_threshold: float = probability(0.9)

    plan = "shadow"
    reads_tokens = False  # but in their shadows
    buffers: ClassVar[Mapping[str, Buffer]] = {
        "filled": Buffer(torch.int32, initial=30, per_position=False)  # in the forward before
    }

    def rule(self, stats: Stats, view: View) -> Write:
        assert stats.shadow is not None
        p, held = view.parameters, stats.shadow.prob_current
        masked, tokens, masks, _ = view.contents()
        most = (masks * 7).div_(10, rounding_mode="floor").clamp_(5, 20)
        fill = highest(stats.prob, masked, 1, above=p.threshold)
        fill = highest(stats.prob, fill, most)
        filled = fill.sum(-1)

        doubted = tokens & (held < p.verify_threshold[:, None])
        remask = highest(-held, doubted, (view.buffers.filled - 1) * (filled > 1))
        ids = torch.where(fill, stats.token, view.ids).masked_fill_(remask, view.mask_token_id)
        return Write(ids, torch.ones_like(view.done), {"filled": filled})  # once no mask is left

    def bad(self, stats: Stats, view: View) -> Tensor:
        """Masks are judged by their own rows, tokens by their shadows."""
        assert stats.shadow is not None
        return torch.where(view.masked(), stats.bad, stats.shadow.bad)

    def most_forwards(self, length: int) -> int:
        return length
