"""What a traced decision leaves for the host, beside what every decision does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastedit.plans import Logits
from fastedit.policies import State, Stats
from fastedit.policies.rows import Rows
from fastedit.policies.statistics import heat_of
from fastedit.request.record import PLANES


class Seen:
    """Watches one decision on `those` positions of `blocks`; nothing of it waits for the device."""

    def __init__(self, blocks: State, those: State, logits: Logits) -> None:
        self.blocks, self.those, self.logits = blocks, those, logits.block
        self.rows = Rows(those, logits.block)
        self.before = those.ids.clone()
        self.may, self.heat = those.may_change().clone(), heat_of(those)
        self.written: Tensor | None = None
        self.stats: Stats | None = None

    def saw(self, stats: Stats) -> None:
        self.stats = stats

    def wrote(self, ids: Tensor) -> None:
        self.written = ids.clone()

    def planes(self) -> Tensor:
        """[8, n, L] fp32, as `PLANES` says, of all positions of the blocks."""
        stats, before = self.stats, self.before
        assert stats is not None
        written = self.those.ids.clone() if self.written is None else self.written
        known = self.may & (stats.prob > 0.0)
        p_old, p_new, p_put = self._probabilities(stats, (before, written, self._put(before)))
        if stats.shadow is not None:  # where its token is not seen, and the rule looks at it there
            held = before != self.those.mask_token_id
            p_old = torch.where(held & self.may, stats.shadow.prob_current, p_old)
        if stats.following is not None:  # of the position to the left
            p_put = torch.nn.functional.pad(stats.following.prob[:, :-1], (1, 0), value=math.nan)
        unknown = torch.full_like(p_old, math.nan)
        found = (
            before,
            written,
            p_old,
            p_new,
            torch.where(known, stats.prob, math.nan),
            unknown if stats.entropy is None else torch.where(known, stats.entropy, math.nan),
            unknown if stats.scores is None else torch.where(self.may, stats.scores, math.nan),
            p_put,
        )
        planes = torch.stack([plane.float() for plane in found])
        length, beside = self.blocks.length, self.blocks.length - self.those.length
        if not beside:
            return planes
        # What stands before the blocks may not change; what lies behind the longest is not there.
        whole = planes.new_full((len(PLANES), len(before), length), math.nan)
        columns = slice(beside, None) if self.blocks.lengths is None else slice(-beside)
        whole[0] = whole[1] = self.blocks.ids
        whole[:, :, columns] = planes
        return whole

    def _put(self, ids: Tensor) -> Tensor:
        """The id that stands for what policies put in before a position, or take out there."""
        control = self.those.policy.control_ids
        return torch.full_like(ids, control[1] if len(control) > 1 else -1)

    def _probabilities(self, stats: Stats, ids: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of these ids [n, L] each, in the softmax that `stats.prob` is of: NaN where a position
        was not read, or the id was not among those to choose from."""
        logits, vocab = self.logits, self.logits.shape[-1]
        asked = torch.stack((stats.token, *ids), dim=-1)
        there = (asked >= 0) & (asked < vocab)
        rows = self.rows.of(asked.clamp(0, vocab - 1))
        found = self.rows.back(logits.gather(-1, rows).float())
        if self.heat is not None:
            found = found / self.heat[:, None, None]
        p = stats.prob[..., None] * (found[..., 1:] - found[..., :1]).exp()
        right = there[..., 1:] & there[..., :1] & (stats.prob > 0.0)[..., None] & (p < 1.00001)
        return torch.where(right & self.may[..., None], p, math.nan).unbind(-1)


def packed(planes: Tensor) -> Tensor:
    """Planes [8, n, L] as integers [8 L, n], to go along with ids."""
    return planes.view(torch.int32).long().mT.flatten(0, 1)


def unpacked(rows: Tensor) -> Tensor:
    """What `packed` made of planes."""
    return rows.unflatten(0, (len(PLANES), -1)).mT.int().view(torch.float32)
