"""The plan of policies that reopen the last few blocks: they see each other, in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastedit.memory.extents import Extent
from fastedit.memory.kv import Rows
from fastedit.plans.base import Logits
from fastedit.plans.block import Block
from fastedit.request.request import Request


class Window(Block):
    """The active block over its cached prefix; wide where a block is reopened.

    A wide forward takes the rows before each block along. Those of a reopened one see all of their
    window. Once it is done, the forward that holds it shows each row what it sees in a prefill, so
    that keys and values are of the final ids. Rows that stand before a window, or before a block
    that is not reopened, see and say nothing that counts; their keys and values go where nobody
    looks.
    """

    waits = True
    wide = False

    def look(self, live: Sequence[Request]) -> bool:
        before, self.wide = self.wide, bool(self.slots.live.blocks.reopened.any())
        return self.wide or before

    def place(
        self, reach: int, extents: Sequence[Extent] | None = None, level: bool = False
    ) -> None:
        if not self.wide:
            super().place(reach, extents, level)
            return
        live = self.slots.live
        begin, reopened = live.start[:, None], live.blocks.reopened
        first = torch.maximum(live.start - self.earlier, live.origin)
        stored, outside = live.stored(torch.where(reopened, first, live.start))
        width = stored.shape[1]
        visible = max(reach, width)
        self.seen = None
        self.rows = Rows(self.pool, live.offset, stored, visible - width, extents, sizes=live.size)
        places = begin + self.slots.offsets
        self.positions = places.clamp(min=0)
        # First positions behind what each row sees.
        blocks = width // self.length
        ends = (1 + self.columns(blocks)) * self.length - self.earlier
        causal = live.held[:, None] & ~outside[:, :: self.length]
        ends = begin + torch.where(causal, ends, self.length)
        seen = self.columns(visible) < ends[..., None]  # by block
        seen = seen[:, :, None].expand(-1, -1, self.length, -1)
        self.mask = seen.reshape(len(begin), 1, width, visible)

    def forward(self) -> Logits:
        if not self.wide:
            return super().forward()
        ids = self.slots.live.blocks.shown()
        return Logits(self.call(ids, self.mask, self.positions, self.rows, None).logits)
