"""The slots: device-side state of all requests that decode now, and its one state machine."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.memory.extents import Extent
from fastedit.memory.kv import Pool
from fastedit.policies import State
from fastedit.request.request import Request
from fastedit.transfers import put, sent


class Slots:
    """Tensors for a number of requests that share what `prepare.shared` names.

    offset  [slots] int64          first position of the request's extent in the pool
    size    [slots] int64          positions of the extent
    start   [slots] int64          first position of the active block, counted in the request
    base    [slots] int64          that of `blocks`: the same, or of all that are generated where
                                   the policy is wide
    final   [slots] int64          that of the last block
    seen    [slots] int64          one past the last position that a forward without a cache sees
    origin  [slots] int64          that of the first block that was decoded
    held    [slots] bool           the block is final, the next forward refreshes its KV
    blocks  policies.State [slots] the active blocks, written in place by the policy, behind those
                                   before them that it may reopen; where it is wide, `width`
                                   positions that hold all blocks of a request

    earlier: positions of `blocks` before the active block.
    drafts: whether a live request has one, or a last block that is cut, so that blocks may open
    with more than masks that may all change.

    Unused slots are marked done, so a step over them changes nothing. Their extent is `spare`,
    which no request has.
    """

    def __init__(
        self,
        slots: int,
        request: Request,
        pool: Pool,
        spare: Extent,
        vocab: int | None = None,
    ) -> None:
        device = pool.ids.device
        self.pool, self.mask_token_id = pool, request.mask_token_id
        self.block_length, self.cached = request.block_length, request.cached
        self.width = request.width
        self.earlier = (request.policy.window - 1) * self.block_length
        self.offsets = torch.arange(-self.earlier, self.width, device=device)
        self.spare, self.drafts = spare, False

        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full((slots, *shape), value, dtype=dtype, device=device)

        self.offset = full(spare.first, torch.int64)
        self.size = full(spare.size, torch.int64)
        self.start = full(0, torch.int64)
        self.base = full(0, torch.int64) if request.policy.wide else self.start
        self.final = full(0, torch.int64)
        self.seen = full(0, torch.int64)
        self.origin = full(0, torch.int64)
        self.held = full(False, torch.bool)
        self.blocks = State.new(
            request.policy,
            full(self.mask_token_id, torch.int64, self.earlier + self.width),
            self.mask_token_id,
            strict=request.config.strict_reference,
            start=self.base,
            earlier=self.earlier,
        )
        self.blocks.vocab = vocab
        self.blocks.done.fill_(True)
        self.live = self.view(slice(0, 0))

    def load(self, first: int, requests: Sequence[Request]) -> None:
        """Put requests, whose canvases are in their extents, into slots from `first` on, and open
        their active blocks."""
        slots, blocks = slice(first, first + len(requests)), self.blocks
        # First, since a policy may raise: then the slots are as they were, with no one's extents.
        policies = [request.policy for request in requests]
        blocks.set_policies(slots, policies, self.block_length)
        sampling = blocks.sampling
        own = [self.offset, self.size, self.start, self.final, self.origin, self.seen, self.base]
        own += [sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed]
        for plane, values in zip(own, zip(*map(_numbers, requests), strict=True), strict=True):
            put(plane, slots, values)
        self.held[slots] = False
        if blocks.lengths is not None and blocks.limits is not None:
            put(blocks.lengths, slots, [request.begins for request in requests])
            most = [(request.policy.most_tokens or 0) - request.start for request in requests]
            put(blocks.limits, slots, most)
        blocks.reset(slots)
        rows = self.view(slots)
        if self.earlier:
            planes = rows.blocks.ids, rows.blocks.editable
            for plane, value in zip(planes, rows.before(), strict=True):
                plane[:, : self.earlier] = value
        rows.blocks.block.ids[:], rows.blocks.block.editable[:] = rows.opening()
        rows.open_()

    def free(self, slots: slice) -> None:
        self.start[slots] = self.base[slots] = self.final[slots] = 0
        self.offset[slots], self.size[slots] = self.spare
        self.blocks.done[slots] = True

    def arrange(self, order: Sequence[int]) -> None:
        """Slot i gets what slot `order[i]` has."""
        rows = sent(torch.tensor(order), self.start.device)
        own = [self.offset, self.size, self.final, self.seen, self.origin, self.held]
        own += self.blocks.fields()
        if self.base is not self.start:  # `base` is among the fields
            own.append(self.start)
        for tensor in own:
            tensor[: len(order)] = tensor[rows]

    def select(self, count: int, draws: bool) -> None:
        """Let the next steps work on the first `count` slots; `draws`: one has a temperature."""
        if self.live.rows.stop != count:
            self.live = self.view(slice(0, count))
        self.live.blocks.draws = draws

    def view(self, rows: slice) -> Live:
        blocks = self.blocks[rows]
        for state in (blocks, blocks.block):
            state.draws, state.vocab = True, self.blocks.vocab
        return Live(
            weakref.proxy(self),  # `live` is one of them, and a cycle would hold the memory
            rows,
            self.offset[rows],
            self.size[rows],
            self.start[rows],
            self.base[rows],
            self.final[rows],
            self.seen[rows],
            self.origin[rows],
            self.held[rows],
            blocks,
        )


def _numbers(request: Request) -> tuple[float, ...]:
    """The numbers of a request that `Slots.load` writes, in its order."""
    config = request.config
    draws = config.temperature > 0.0  # else the other two have no effect
    return (
        *request.extent,
        request.start,
        request.last,
        request.origin,
        request.seen,
        request.base,
        config.temperature,
        max(config.top_k or 0, 0) if draws else 0,
        1.0 if config.top_p is None or not draws else config.top_p,
        (request.seed + 2**63) % 2**64 - 2**63,  # as signed 64 bits
    )


@dataclass(frozen=True)
class Live:
    """Some slots as views, so a step on them shows in the whole."""

    slots: Slots
    rows: slice
    offset: Tensor
    size: Tensor
    start: Tensor
    base: Tensor
    final: Tensor
    seen: Tensor
    origin: Tensor
    held: Tensor
    blocks: State

    def where(self) -> Tensor:
        """Positions of the pool that `blocks` have, without what stands before, [n, L]."""
        offsets = self.slots.offsets[self.slots.earlier :]
        return (self.offset + self.base)[:, None] + offsets

    def stored(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in their extents of all that `blocks` hold, [n, earlier + L], and which of them
        stand before `first` [n]: these have a place behind everything that is decoded."""
        positions = self.start[:, None] + self.slots.offsets
        outside = positions < first[:, None]
        behind = self.final[:, None] + self.slots.block_length + self.slots.offsets
        return torch.where(outside, behind + self.slots.earlier, positions), outside

    def before(self) -> tuple[Tensor, Tensor]:
        """What stands before the active blocks, and what of it may be reopened, [n, earlier]."""
        pool, earlier = self.slots.pool, self.slots.earlier
        stored, outside = (each[:, :earlier] for each in self.stored(self.origin))
        where = self.offset[:, None] + stored
        return pool.ids[where], ~(pool.protected[where] | outside)

    def opening(self) -> tuple[Tensor, Tensor]:
        """What the active blocks begin with: their ids and what may change of them, [n, L] each.

        What stands in the pool, and where that is a mask, what the policy puts in its place.
        """
        pool, where, blocks = self.slots.pool, self.where(), self.blocks.block
        ids, editable = pool.ids[where], ~pool.protected[where]
        blank = (ids == self.slots.mask_token_id) & editable
        return torch.where(blank, blocks.policy.open(blocks), ids), editable

    def write_(self, ids: Tensor) -> None:
        """Ids of all that `blocks` hold, into the pool."""
        where = self.where()
        if self.slots.earlier:
            where = self.offset[:, None] + self.stored(self.origin)[0]
        self.slots.pool.ids[where] = ids

    def open_(self) -> None:
        """Let wide policies write up to the end of the active blocks."""
        if self.blocks.opened is not None:
            end = self.start - self.base + self.slots.block_length
            self.blocks.opened.copy_(self.slots.offsets < end[:, None])

    def advance_(self) -> None:
        """Open the next block of every row that is done; no value is read on the host.

        A block whose last step changed ids is held for one more forward, which decides nothing,
        since the keys and values in the cache are of older ids. Rows that are done with their last
        block, or whose logits were bad, stay as they are.
        """
        blocks = self.blocks
        settled = self.held | ~blocks.dirty if self.slots.cached else True
        onward = blocks.done & settled & (self.start < self.final) & ~blocks.bad
        self.held.copy_(blocks.done & ~onward)
        if not self.slots.cached:  # else no forward takes ids from there
            self.write_(blocks.ids)
        self.start.add_(onward, alpha=self.slots.block_length)
        blocks.reset(onward)
        if blocks.opened is not None:  # what lies behind stands there already
            self.open_()
            return
        opened, earlier = onward[:, None], self.slots.earlier
        if earlier:
            for plane in (blocks.ids, blocks.editable):
                before = plane[:, self.slots.block_length :]
                plane[:, :earlier] = torch.where(opened, before, plane[:, :earlier])
            blocks = blocks.block
        if not self.slots.drafts:  # what lies behind a block is blank
            blocks.ids.copy_(torch.where(opened, blocks.policy.open(blocks), blocks.ids))
            blocks.editable.logical_or_(opened)
            return
        for plane, value in zip((blocks.ids, blocks.editable), self.opening(), strict=True):
            plane.copy_(torch.where(opened, value, plane))
