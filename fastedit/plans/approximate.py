"""Fast-dLLM's caches: full attention over keys and values of which some are of older ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.memory.extents import Extent
from fastedit.memory.kv import Rows
from fastedit.plans.base import Logits, Plan
from fastedit.plans.call import ModelCall
from fastedit.request.request import Request
from fastedit.request.slots import Slots


class Part(NamedTuple):
    """Live rows whose forwards are of one kind, and the layout of theirs: W rows each.

    rows       numbers of the live rows, m of them
    where      int64 [m, W], positions of the pool whose ids go in
    positions  int64 [m, W or W + L], with shadows behind them
    mask       bool [m, 1, W or W + L, T]
    wanted     int64 [m, L or 2 L], rows of the forward that are decided on
    """

    rows: list[int]
    where: Tensor
    positions: Tensor
    mask: Tensor
    wanted: Tensor
    cache: Rows
    seen: tuple[Tensor, Tensor] | None


class Approximate(Plan):
    """A block's first forward computes everything; the later ones only a part, beside what is kept.

    behind  whether they compute all behind the block as well as the block: cache "prefix". Else
            what is behind stays as the first forward saw it: cache "dual"

    Released for LLaDA in Fast-dLLM (arXiv 2505.22618), whose results these are. With a shift, the
    row before the block, which predicts the block's first token, is computed with the block.
    """

    waits = True

    def __init__(
        self, call: ModelCall, slots: Slots, shadow: bool, shift: int, behind: bool
    ) -> None:
        super().__init__(call, slots, shadow)
        self.shift, self.behind = shift, behind
        self.first: list[bool] = []  # of each live row, whether its block is at its first forward
        self.parts: list[Part] = []

    def reach(self, live: Sequence[Request], unread: int) -> int:
        return max(request.span for request in live)

    def look(self, live: Sequence[Request]) -> bool:
        return self._at_first() != self.first

    def _at_first(self) -> list[bool]:
        return (self.slots.live.blocks.counts.forwards == 0).tolist()

    def place(
        self, reach: int, extents: Sequence[Extent] | None = None, level: bool = False
    ) -> None:
        self.first, live = self._at_first(), self.slots.live
        self.parts = []
        for first in (True, False):
            rows = [row for row, value in enumerate(self.first) if value == first]
            if rows:
                theirs = [extents[row] for row in rows] if extents else None
                begin = live.start[rows].sub(self.shift).clamp(min=0)
                self.parts.append(self._part(rows, begin * (not first), theirs, first))
        order = [row for part in self.parts for row in part.rows]
        self.order = torch.tensor(order, device=live.start.device).argsort()

    def _part(
        self, rows: list[int], begin: Tensor, extents: Sequence[Extent] | None, first: bool
    ) -> Part:
        """begin [m]: the first positions that are computed."""
        live, length = self.slots.live, self.length
        start, offset, size = live.start[rows], live.offset[rows], live.size[rows]
        span = live.final[rows] + length
        reach, widest = torch.stack((span, span - begin)).amax(1).tolist()
        width = widest if first or self.behind else min(length + self.shift, widest)
        own = start[:, None] + self.columns(length)
        # What is beyond a row's span has a place at the end of its extent that no row sees, behind
        # that of the shadows.
        window = begin[:, None] + self.columns(width)
        window = torch.where(window < span[:, None], window, size[:, None] - 1)
        visible = reach + (length if self.shadow else 0)
        columns, end = self.columns(visible), live.seen[rows]
        mask = (columns < end[:, None])[:, None].expand(-1, width, -1)
        wanted = (own - self.shift).clamp(min=0) - begin[:, None]
        positions = stored = window
        if self.shadow:  # their keys and values are behind those of all real positions
            behind = span[:, None] + self.columns(length)
            seen = (columns < end[:, None])[:, None] & (columns != own[..., None])
            mask = torch.cat((mask, seen | (columns == behind[..., None])), dim=1)
            wanted = torch.cat((wanted, (width + self.columns(length)).expand_as(own)), dim=1)
            positions = torch.cat((window, own), dim=1)
            stored = torch.cat((window, behind), dim=1)
        before = visible - stored.shape[1]
        level = first and not self.shadow
        cache = Rows(self.pool, offset, stored, before, extents, sizes=size, level=level)
        told = None if self.shadow else (end.to(torch.int32), offset.to(torch.int32))
        return Part(rows, offset[:, None] + window, positions, mask[:, None], wanted, cache, told)

    def forward(self) -> Logits:
        self.slots.live.write_(self.slots.live.blocks.shown())
        each = [self._logits(part) for part in self.parts]
        logits = each[0] if len(each) == 1 else torch.cat(each)[self.order.to(each[0].device)]
        return self.split(logits)

    def _logits(self, part: Part) -> Tensor:
        ids = self.pool.ids[part.where]
        if self.shadow:
            masks = ids.new_full((len(ids), self.length), self.slots.mask_token_id)
            ids = torch.cat((ids, masks), dim=1)
        return self.call.rows(
            ids, part.mask, part.positions, part.wanted, part.cache, part.seen
        ).logits
