"""The plan of texts that shrink and grow: everything that there is by now, in every forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastedit.engine.call import ModelCall
from fastedit.engine.extents import Extent
from fastedit.engine.plans.base import Logits
from fastedit.engine.plans.full import Full
from fastedit.engine.request import Request
from fastedit.engine.slots import Slots


class Varying(Full):
    """A row of a forward is a text, padded to the longest that there is now.

    The head for the next token is called only while a live text is in need of it.
    """

    waits = True

    def __init__(self, call: ModelCall, slots: Slots) -> None:
        super().__init__(call, slots, shadow=False, everything=True, shift=0)
        self.lengths: list[int] = []  # of the live rows, as the next forward has them
        self.wants_next = True

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
        self.lengths = lengths.tolist()
        columns = self.columns(reach)
        mask = columns < (live.base + lengths)[:, None]
        self.mask = mask[:, None, None].expand(-1, -1, reach, -1)
        # Columns beyond a row's extent are seen by none of its own.
        self.where = live.offset[:, None] + torch.minimum(columns, live.size[:, None] - 1)
        self.positions = columns.expand(len(mask), -1)
        own = live.base[:, None] + self.columns(max(self.lengths))
        self.wanted = own.clamp(max=reach - 1)

    def forward(self) -> Logits:
        live = self.slots.live
        live.write_(live.blocks.shown())
        ids = self.pool.ids[self.where]
        rows = self.mask, self.positions, self.wanted
        logits, _, following = self.call.rows(ids, *rows, following=self.wants_next)
        if self.call.next_head is None and following is None:
            raise ValueError(
                f"policy {live.blocks.policy} needs logits of the next token, and there are none: "
                "give Decoder(..., head=...) a NextTokenHead, or a model that returns .next_logits"
            )
        return Logits(logits, following=following if self.wants_next else None)

    def _lengths(self) -> torch.Tensor:
        lengths = self.slots.live.blocks.lengths
        assert lengths is not None
        return lengths
