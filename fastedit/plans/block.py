"""Plans with a cache: the active block over its prefix, alone or with rows beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, takewhile

import torch
from torch import Tensor

from fastedit.memory.capacity import PREFILL_CHUNK
from fastedit.memory.extents import Extent
from fastedit.memory.kv import Rows
from fastedit.plans.base import Logits, Piece, Plan
from fastedit.plans.call import ModelCall
from fastedit.request.request import Request
from fastedit.request.slots import Live, Slots
from fastedit.transfers import sent

# Positions that such a forward may read of several extents, where they are copied together.
COPIED = 65536
# How often a prefill may copy a position's keys where its rows are blocks, each with all before it.
COPIES = 32
# The share of live blocks that must be able to use their next block for a forward to take the next
# blocks along. Below it, those that cannot cost more than is saved.
AHEAD_SHARE = 0.75


class Block(Plan):
    """The active block over its cached prefix."""

    cached = True

    def __init__(self, call: ModelCall, slots: Slots, shadow: bool = False) -> None:
        super().__init__(call, slots, shadow)
        self.extra = int(shadow)  # blocks of rows beside the active one

    @property
    def most_pieces(self) -> int:
        return max(PREFILL_CHUNK // self.length, 1)

    def fits(self, pieces: Sequence[Piece]) -> int:
        """As many as are of one width; of one extent, where too much would be copied."""
        first = pieces[0]
        taken = list(
            takewhile(lambda piece: piece.width == first.width, pieces[: self.most_pieces])
        )
        runs = self._runs(taken)
        taken = [*chain(*takewhile(lambda run: len(run) == len(runs[0]), runs))]
        reach = max(piece.start for piece in taken) + first.width
        rows = len(taken) // len(runs[0])
        if len({piece.extent for piece in taken}) > 1 and rows * reach > COPIED:
            taken = list(takewhile(lambda piece: piece.extent == first.extent, taken))
        return len(taken)

    def _runs(self, pieces: Sequence[Piece]) -> list[list[Piece]]:
        """The pieces of each row of a prefill.

        A piece each: no mask of queries times keys is made, and rows of all prompts go together.
        But where the keys of every row are copied, those of long prompts that follow one another
        are one row.
        """
        length = pieces[0].width
        reach = max(piece.start for piece in pieces) + length
        if self.call.in_place or reach <= COPIES * length:
            return [[piece] for piece in pieces]
        runs: list[list[Piece]] = []
        for piece in pieces:
            end = runs[-1][-1] if runs else None
            follows = end and (end.extent, end.start + end.width) == (piece.extent, piece.start)
            if follows:
                runs[-1].append(piece)
            else:
                runs.append([piece])
        return runs

    def prefill(self, pieces: Sequence[Piece]) -> None:
        """A block sees what lies before it and itself, as the rows of a step do."""
        runs, length = self._runs(pieces), pieces[0].width
        blocks = len(runs[0])
        width = blocks * length
        reach = max(piece.start for piece in pieces) + length
        device = self.pool.ids.device
        extents = [run[0].extent for run in runs]
        numbers = [(run[0].extent.first, run[0].extent.size, run[0].start) for run in runs]
        offsets, sizes, starts = sent(torch.tensor(numbers), device).unbind(1)
        positions = starts[:, None] + self.columns(width)
        rows = Rows(self.pool, offsets, positions, reach - width, extents, sizes=sizes)
        seen = starts[:, None] + (1 + self.columns(blocks)) * length  # by block
        mask = (self.columns(reach) < seen[..., None])[:, :, None].expand(-1, -1, length, -1)
        ids = self.pool.ids[offsets[:, None] + positions]
        lengths = (starts + width).to(torch.int32), offsets.to(torch.int32)
        mask = mask.reshape(len(runs), 1, width, reach)
        self.call(ids, mask, positions, rows, lengths, **self.call.last_logits_only)

    def place(
        self, reach: int, extents: Sequence[Extent] | None = None, level: bool = False
    ) -> None:
        length, live = self.length, self.slots.live
        width = (1 + self.extra) * length
        begin, visible = live.start[:, None], reach + width - length
        stored = begin + self.columns(width)
        self.seen = None
        if not self.extra:
            self.seen = live.start.to(torch.int32) + length, live.offset.to(torch.int32)
        self.rows = Rows(
            self.pool, live.offset, stored, reach - length, extents, sizes=live.size, level=level
        )
        self.positions = stored
        shape = (len(begin), 1, length, visible)
        columns = self.columns(visible)
        self.mask = (columns < begin + length)[:, None, None, :].expand(shape)
        if self.extra:
            relative = columns - begin  # to the row's block
            self.mask = torch.cat((self.mask, self._extra_mask(relative)[:, None]), dim=2)
            self.positions = self._extra_positions(stored)

    def forward(self) -> Logits:
        ids = self.slots.live.blocks.block.shown()
        if self.extra:
            ids = torch.cat((ids, self._extra_ids()), dim=1)
        logits, hidden, _ = self.call(ids, self.mask, self.positions, self.rows, self.seen)
        return self.split(logits, None if hidden is None else self._scores(hidden))

    def _scores(self, hidden: Tensor) -> Tensor:
        assert self.scorer is not None
        rows = slice(self.length)
        return self.scorer.of_blocks(hidden[:, rows], self.positions[:, rows])

    def _extra_ids(self) -> Tensor:
        return self.shadows()

    def _extra_mask(self, relative: Tensor) -> Tensor:
        """What the shadow rows see, bool [n, L, T]: all before, the others of the block, itself."""
        own = (self.columns(self.length) - relative[:, :1])[..., None]  # column of each position
        seen = (relative < self.length)[:, None, :].repeat(1, self.length, 1)
        return seen.scatter_(2, own, False).scatter_(2, own + self.length, True)

    def _extra_positions(self, stored: Tensor) -> Tensor:
        """A shadow has the position of its row; its keys and values lie behind the block."""
        return stored[:, : self.length].repeat(1, 2)


class Lookahead(Block):
    """Takes the block behind the active one along where a forward probably only verifies it.

    Where that changes nothing, the next block saw the final ids: its first forward is done.
    """

    waits = True

    def look(self, live: Sequence[Request]) -> bool:
        settled = (~self.slots.live.blocks.masked().any(dim=1)).tolist()
        wanted = sum(
            free and request.start < request.last
            for free, request in zip(settled, live, strict=True)
        )
        before, self.extra = self.extra, int(wanted >= AHEAD_SHARE * len(live))
        return before != self.extra

    def more(
        self, logits: Logits, opened: Sequence[tuple[int, Request]]
    ) -> Iterator[tuple[Live, Logits, Request]]:
        if logits.ahead is None:
            return
        for row, request in opened:  # what these rows saw had become final
            live = self.slots.view(slice(request.slot, request.slot + 1))
            live.blocks.draws = request.config.temperature > 0.0
            scores = logits.ahead_scores
            scores = None if scores is None else scores[row : row + 1]
            yield live, Logits(logits.ahead[row : row + 1], scores=scores), request

    def _scores(self, hidden: Tensor) -> Tensor:
        assert self.scorer is not None
        return self.scorer.of_blocks(hidden, self.positions, ahead=self.extra > 0)

    def split(self, logits: Tensor, scores: Tensor | None = None) -> Logits:
        if not self.extra:
            return Logits(logits, scores=scores)
        block, ahead = logits.split(self.length, dim=1)
        if scores is None:
            return Logits(block, ahead=ahead)
        now, then = scores.split(self.length, dim=1)
        return Logits(block, ahead=ahead, scores=now, ahead_scores=then)

    def _extra_ids(self) -> Tensor:
        """What the next blocks are to begin with."""
        live = self.slots.live
        return self.pool.ids[live.where() + self.length]

    def _extra_mask(self, relative: Tensor) -> Tensor:
        shape = (len(relative), self.length, relative.shape[1])
        return (relative < 2 * self.length)[:, None, :].expand(shape)

    def _extra_positions(self, stored: Tensor) -> Tensor:
        return stored
