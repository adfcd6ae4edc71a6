"""The plan of texts that shrink and grow: everything that there is by now, in every forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastedit.memory.extents import Extent
from fastedit.plans.base import Logits
from fastedit.plans.call import ModelCall
from fastedit.plans.full import Full
from fastedit.request.request import Request
from fastedit.request.slots import Slots


class Varying(Full):
    """Texts stand end to end in the one row of a forward; where the model cannot have that, each
    is a row, padded to the longest that there is now.

    The head for the next token is called only while a live text is in need of it.
    """

    waits = True

    def __init__(self, call: ModelCall, slots: Slots) -> None:
        super().__init__(call, slots, shadow=False, everything=True, shift=0)
        self.lengths: list[int] = []  # of the live rows, as the next forward has them
        self.wants_next = True
        self.packed: dict[str, Any] = {}  # what a model is told that has them in one row

    def reach(self, live: Sequence[Request], unread: int) -> int:
        """One past the last position of the longest."""
        lengths = self._lengths().tolist()
        return max(r.start + length for r, length in zip(live, lengths, strict=True))

    def look(self, live: Sequence[Request]) -> bool:
        blocks, before = self.slots.live.blocks, self.lengths
        wants = blocks.policy.wants_next(blocks)
        self.lengths, wanting = torch.stack((self._lengths(), wants)).tolist()
        self.wants_next = any(wanting)
        return self.lengths != before

    def place(
        self, reach: int, extents: Sequence[Extent] | None = None, level: bool = False
    ) -> None:
        live, lengths = self.slots.live, self._lengths()
        ends = live.base + lengths
        self.lengths, in_order = torch.stack((lengths, ends.sort().values)).tolist()
        columns, own = self.columns(reach), self.columns(max(self.lengths))
        there, wanted = columns < ends[:, None], live.base[:, None] + own
        # Columns beyond a row's extent are seen by none of its own.
        where = live.offset[:, None] + torch.minimum(columns, live.size[:, None] - 1)
        if not self.call.packs():
            self.packed, self.mask = {}, there[:, None, None].expand(-1, -1, reach, -1)
            self.where, self.positions = where, columns.expand(len(there), -1)
            self.wanted = wanted.clamp(max=reach - 1)
            return
        order = ends.argsort()  # those of one length share a call of the attention
        there, sizes = there[order], ends[order]
        self.packed, self.mask = {"text_lengths": in_order}, None
        self.where = where[order][there][None]
        self.positions = columns.expand(len(there), -1)[there][None]
        starts = torch.empty_like(ends).scatter_(0, order, sizes.cumsum(0) - sizes)
        self.wanted = (starts[:, None] + wanted)[own < lengths[:, None]][None]

    def forward(self) -> Logits:
        live = self.slots.live
        live.write_(live.blocks.shown())
        ids = self.pool.ids[self.where]
        rows = self.mask, self.positions, self.wanted
        logits, _, following = self.call.rows(ids, *rows, following=self.wants_next, **self.packed)
        if self.call.next_head is None and following is None:
            raise ValueError(
                f"policy {live.blocks.policy} needs logits of the next token, and there are none: "
                "give Decoder(..., head=...) a NextTokenHead, or a model that returns .next_logits"
            )
        if not self.wants_next:
            following = None
        if not self.packed:
            return Logits(logits, following=following)
        following = None if following is None else following[0]
        return Logits(logits[0], following=following, lengths=self.lengths)

    def _lengths(self) -> torch.Tensor:
        lengths = self.slots.live.blocks.lengths
        assert lengths is not None
        return lengths
