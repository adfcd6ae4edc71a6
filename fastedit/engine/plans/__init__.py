"""Plans: which rows a forward takes, what they see, and where their keys and values go.

| plan | rows of a forward | sees |
|---|---|---|
| `Block` | the active block | its committed prefix in the cache, and itself |
| `Lookahead` | now and then also the block behind it | that one all before it |
| `Shadow` | also a mask for each of its positions | the same, but not the row at its own position |
| `Full` | everything, without a cache | by the family: all blocks up to its own, or all there are |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastedit.engine.call import ModelCall
from fastedit.engine.request import Request
from fastedit.engine.slots import Live, Slots
from fastedit.policies import Policy

if TYPE_CHECKING:
    from fastedit.engine.kv import BlockCache

# Prompt positions per prefill forward, rounded down to whole blocks: bounds the attention mask.
PREFILL_CHUNK = 2048
# The share of live blocks that must be able to use their next block for a forward to take the next
# blocks along. Below it, those that cannot cost more than is saved.
AHEAD_SHARE = 0.75


class Logits(NamedTuple):
    """Of one forward, [n, L, V] each: the active blocks, their shadows, the blocks behind them."""

    block: Tensor
    shadow: Tensor | None = None
    ahead: Tensor | None = None


class Plan:
    """A plan over the live rows of `slots`; `place` says where they are before `forward`.

    beyond: blocks behind the last one that a forward may touch.
    """

    cache: BlockCache | None = None
    beyond = 0
    waits = False  # whether it has to know what a step did before the next one

    def __init__(self, call: ModelCall, slots: Slots, shadow: bool = False) -> None:
        self.call, self.slots, self.shadow = call, slots, shadow
        self.length, self.columns = slots.block_length, torch.arange(0, device=slots.start.device)

    @torch.inference_mode()
    def reserve(self, slots: int, most: int, length: int) -> bool:
        """Room for `slots` requests of `length` positions, and where it has to be made for `most`.

        Keeps the live ones; they fit into both. True when tensors have moved.
        """
        moved = False
        if len(self.columns) < length:
            self.columns, moved = torch.arange(length, device=self.columns.device), True
        if self.slots.tokens.shape[1] < length:
            self.slots.grow(length)
            moved = True
        if self.cache is not None and (self.cache.slots < slots or self.cache.length < length):
            self.cache.resize(most, length)
            moved = True
        return moved

    def span(self, request: Request) -> int:
        """Positions that forwards of `request` touch."""
        return request.span + self.beyond * self.length

    def reach(self, live: Sequence[Request], unread: int) -> int:
        """One past the furthest position of an active block.

        unread: steps that the host has not followed; each may have opened a block.
        """
        beyond = unread * self.length
        starts = (min(request.start + beyond, request.last) for request in live)
        return max(starts) + self.length

    def look(self, live: Sequence[Request]) -> bool:
        """Choose the rows of the next forward; True where they have changed."""
        return False

    def prefill(self, slot: int, request: Request) -> None:
        """Whatever has to be computed before the first forward of a request."""

    def place(self, reach: int, level: bool) -> None:
        """Positions and masks of the live rows; again only when one of them moves.

        reach: one past the last position to see, at least; level: all blocks end there.
        """
        raise NotImplementedError

    def forward(self) -> Logits:
        raise NotImplementedError

    def more(
        self, logits: Logits, opened: Sequence[tuple[int, Request]]
    ) -> Iterator[tuple[Live, Logits, Request]]:
        """Further decisions from the same forward, for rows that have just opened a block."""
        return iter(())

    def move(self, source: int, target: int) -> None:
        if self.cache is not None:
            self.cache.move(source, target)


class Block(Plan):
    """The active block over its cached prefix."""

    def __init__(self, call: ModelCall, slots: Slots, shadow: bool = False) -> None:
        from fastedit.engine.kv import BlockCache  # here, since it imports transformers

        super().__init__(call, slots, shadow)
        self.cache: BlockCache = BlockCache()
        self.extra = int(shadow)  # blocks of rows beside the active one
        self.beyond = self.extra

    @torch.inference_mode()
    def prefill(self, slot: int, request: Request) -> None:
        """Commit the whole blocks before the active one; a prompt's tail rides in that."""
        for layer in self.cache.layers:  # a NaN left behind would pass through any mask
            layer.keys[slot] = layer.values[slot] = 0
        chunk = max(PREFILL_CHUNK // self.length, 1) * self.length
        first = request.start % self.length  # where blocks begin behind the prompt, a shorter one
        bounds = [0, *range(first + chunk if first else chunk, request.start, chunk), request.start]
        chunks = [(a, b) for a, b in pairwise(bounds) if a < b]
        for start, stop in chunks:
            positions = self.columns[start:stop]
            block = (self.columns[:stop] - first).div(self.length, rounding_mode="floor")
            mask = block[None, :] <= block[start:stop, None]
            self.cache.place(slice(slot, slot + 1), positions[None], start, level=True)
            ids = self.slots.tokens[slot : slot + 1, start:stop]
            self.call(
                ids, mask[None, None], positions[None], self.cache, **self.call.last_logits_only
            )
        if not request.written:  # else it came back, and had its prompt prefilled before
            request.stats.prefill_forwards = len(chunks)

    def place(self, reach: int, level: bool) -> None:
        length, live = self.length, self.slots.live
        width = (1 + self.extra) * length
        begin = live.start[:, None]
        stored = begin + self.columns[:width]
        visible = reach + width - length
        relative = self.columns[:visible] - begin  # of every column to the row's block
        self.seen = live.start.to(torch.int32) + length if not self.extra else None
        self.cache.place(live.rows, stored, reach - length, level)
        self.positions = stored
        shape = (len(begin), 1, length, visible)
        self.mask = (relative < length)[:, None, None, :].expand(shape)
        if self.extra:
            self.mask = torch.cat((self.mask, self._extra_mask(relative)[:, None]), dim=2)
            self.positions = self._extra_positions(stored)

    @torch.inference_mode()
    def forward(self) -> Logits:
        ids = self.slots.live.blocks.ids
        if self.extra:
            ids = torch.cat((ids, torch.full_like(ids, self.slots.mask_token_id)), dim=1)
        logits = self.call(ids, self.mask, self.positions, self.cache, self.seen)
        return self._split(logits)

    def _split(self, logits: Tensor) -> Logits:
        if not self.extra:
            return Logits(logits)
        block, shadow = logits.split(self.length, dim=1)
        return Logits(block, shadow=shadow)

    def _extra_mask(self, relative: Tensor) -> Tensor:
        """What the shadow rows see, bool [n, L, T]: all before, the others of the block, itself."""
        column, own = relative[:, None, :], self.columns[: self.length][None, :, None]
        return ((column < self.length) & (column != own)) | (column == self.length + own)

    def _extra_positions(self, stored: Tensor) -> Tensor:
        """A shadow has the position of its row; its keys and values lie behind the block."""
        return stored[:, : self.length].repeat(1, 2)


class Lookahead(Block):
    """Takes the block behind the active one along where a forward probably only verifies it.

    Where that changes nothing, the next block saw the final ids: its first forward is done.
    """

    waits = True

    def __init__(self, call: ModelCall, slots: Slots) -> None:
        super().__init__(call, slots)
        self.beyond = 1

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
            yield live, Logits(logits.ahead[row : row + 1]), request

    def _split(self, logits: Tensor) -> Logits:
        if not self.extra:
            return Logits(logits)
        block, ahead = logits.split(self.length, dim=1)
        return Logits(block, ahead=ahead)

    def _extra_mask(self, relative: Tensor) -> Tensor:
        shape = (len(relative), self.length, relative.shape[1])
        return (relative < 2 * self.length)[:, None, :].expand(shape)

    def _extra_positions(self, stored: Tensor) -> Tensor:
        return stored


class Full(Plan):
    """Everything recomputed in every forward; only the wanted rows reach the head."""

    def __init__(
        self, call: ModelCall, slots: Slots, shadow: bool, everything: bool, shift: int
    ) -> None:
        super().__init__(call, slots, shadow)
        self.everything, self.shift = everything, shift

    def reach(self, live: Sequence[Request], unread: int) -> int:
        if self.everything:
            return max(request.span for request in live)
        return super().reach(live, unread)

    def place(self, reach: int, level: bool) -> None:
        length, live = self.length, self.slots.live
        begin, columns = live.start[:, None], self.columns[:reach]
        if self.everything:
            mask = (columns < live.final[:, None] + length)[:, None, :].expand(-1, reach, -1)
        else:
            block = (columns - begin).div(length, rounding_mode="floor")  # 0 is the active one
            mask = (block <= 0)[:, None, :] & (block[:, None, :] <= block[:, :, None])
        own = begin + self.columns[:length]
        self.visible, self.positions = reach, columns.expand(len(begin), -1)
        self.wanted = (own - self.shift).clamp(min=0)
        if self.shadow:  # the shadows stand behind the real rows
            seen = mask.gather(1, own[..., None].expand(-1, -1, reach))
            seen = torch.cat((seen & (columns != own[..., None]), self._eye(len(begin))), dim=2)
            mask = torch.cat((pad(mask, (0, length)), seen), dim=1)
            self.positions = torch.cat((self.positions, own), dim=1)
            behind = reach + self.columns[:length]
            self.wanted = torch.cat((self.wanted, behind.expand_as(own)), dim=1)
        self.mask = mask[:, None]

    def _eye(self, rows: int) -> Tensor:
        place = self.columns[: self.length]
        return (place[:, None] == place).expand(rows, -1, -1)

    @torch.inference_mode()
    def forward(self) -> Logits:
        live = self.slots.live
        live.write_()
        ids = live.tokens[:, : self.visible]
        if self.shadow:
            masks = torch.full_like(live.blocks.ids, self.slots.mask_token_id)
            ids = torch.cat((ids, masks), dim=1)
        logits = self.call.rows(ids, self.mask, self.positions, self.wanted)
        if not self.shadow:
            return Logits(logits)
        block, shadow = logits.split(self.length, dim=1)
        return Logits(block, shadow=shadow)


def plan_for(call: ModelCall, slots: Slots, request: Request) -> Plan:
    """The plan of `request` and of all that decode together with it."""
    family, shadow = request.family, request.policy.plan == "shadow"
    if not request.cached:
        everything = family.attention == "full"
        return Full(call, slots, shadow, everything, family.shift)
    # A block that rides along rides as masks: a rule that opens it otherwise goes on without.
    masks = type(request.policy).open is Policy.open
    ahead = request.config.lookahead and not shadow and masks
    return Lookahead(call, slots) if ahead else Block(call, slots, shadow)
