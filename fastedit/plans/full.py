"""The plan without a cache: everything recomputed in every forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastedit.memory.extents import Extent
from fastedit.plans.base import Logits, Plan
from fastedit.plans.call import ModelCall, chosen
from fastedit.request.request import Request
from fastedit.request.slots import Slots


class Full(Plan):
    """Everything recomputed in every forward; only the wanted rows reach the head."""

    def __init__(
        self, call: ModelCall, slots: Slots, shadow: bool, everything: bool, shift: int
    ) -> None:
        super().__init__(call, slots, shadow)
        self.everything, self.shift = everything, shift
        self.mask: Tensor | None = None

    def reach(self, live: Sequence[Request], unread: int) -> int:
        if self.everything or self.slots.width > self.length:
            return max(request.span for request in live)
        return super().reach(live, unread)

    def look(self, live: Sequence[Request]) -> bool:
        return self.earlier > 0 and not self.everything  # whether blocks are reopened

    def place(
        self, reach: int, extents: Sequence[Extent] | None = None, level: bool = False
    ) -> None:
        length, live = self.length, self.slots.live
        begin, columns = live.start[:, None], self.columns(reach)
        if self.everything:
            mask = (columns < live.seen[:, None])[:, None, :].expand(-1, reach, -1)
        else:
            block = (columns - begin).div(length, rounding_mode="floor")  # 0 is the active one
            seen = block
            if self.earlier:  # reopened blocks see each other
                first = torch.maximum(begin - self.earlier, live.origin[:, None])
                inside = live.blocks.reopened[:, None] & (columns >= first)
                seen = torch.where(inside, block.clamp(min=0), block)
            mask = (block <= 0)[:, None, :] & (block[:, None, :] <= seen[:, :, None])
        own = live.base[:, None] + self.slots.offsets
        # Columns beyond a row's extent are seen by none of its own.
        self.where = live.offset[:, None] + torch.minimum(columns, live.size[:, None] - 1)
        self.positions = columns.expand(len(begin), -1)
        self.wanted, self.own = (own - self.shift).clamp(min=0), own
        if self.shadow:  # the shadows stand behind the real rows
            seen = mask.gather(1, own[..., None].expand(-1, -1, reach))
            seen = torch.cat((seen & (columns != own[..., None]), self._eye(len(begin))), dim=2)
            mask = torch.cat((pad(mask, (0, length)), seen), dim=1)
            self.positions = torch.cat((self.positions, own), dim=1)
            behind = reach + self.columns(length)
            self.wanted = torch.cat((self.wanted, behind.expand_as(own)), dim=1)
        self.mask = mask[:, None]

    def _eye(self, rows: int) -> Tensor:
        place = self.columns(self.length)
        return (place[:, None] == place).expand(rows, -1, -1)

    def forward(self) -> Logits:
        live = self.slots.live
        live.write_(live.blocks.shown())
        ids = self.pool.ids[self.where]
        if self.shadow:
            ids = torch.cat((ids, self.shadows()), dim=1)
        logits, hidden, _ = self.call.rows(ids, self.mask, self.positions, self.wanted)
        scores = None if hidden is None else self._scores(hidden)
        return self.split(logits, scores)

    def _scores(self, hidden: Tensor) -> Tensor:
        """Of what the slots hold, [n, L], whichever rows predict it."""
        assert self.scorer is not None
        if not self.everything:
            return self.scorer.of_blocks(chosen(hidden, self.own), self.own)
        reach = self.where.shape[1]
        rows, seen = slice(reach), self.slots.live.seen
        return self.scorer.of_canvas(hidden[:, rows], self.positions[:, rows], seen).gather(
            1, self.own
        )
