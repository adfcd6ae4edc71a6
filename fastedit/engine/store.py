"""Where requests have their positions, and which of them need not be computed again."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch.nn.functional import pad

from fastedit.memory.extents import Extent, Extents
from fastedit.memory.kv import Pool
from fastedit.memory.prefixes import Prefixes
from fastedit.request.request import Request
from fastedit.transfers import sent

# Extents of requests that ended that are kept while the pool could grow instead.
KEPT = 8


class Store:
    """A pool in units of `unit` positions, of which every request gets an extent.

    even   extents are to be alike, since they are read in place where they are; else what requests
           that ended have left is given up before the pool grows
    limit  positions that the pool may have, unless one request needs more
    grown  how often the tensors of the pool were replaced
    """

    def __init__(
        self, device: torch.device, unit: int, *, even: bool, limit: float = math.inf
    ) -> None:
        self.device, self.even, self.limit = device, even, limit
        self.pool, self.extents, self.prefixes = Pool(device), Extents(0, unit), Prefixes()
        self.grown = 0

    def reserve(self, lengths: Sequence[int]) -> None:
        """Room for requests of these lengths, as far as there may be."""
        self._grow(int(min(sum(map(self.extents.units_of, lengths)), max(self._left(), 1))))

    def size_of(self, positions: int) -> int:
        return self.extents.units_of(positions) * self.extents.unit

    def spare(self, positions: int) -> Extent:
        """An extent for rows without a request."""
        extent = self._range(positions, alone=True)
        assert extent is not None
        return extent

    def take(self, request: Request, alone: bool) -> bool:
        """Give `request` an extent, and what of its blocks is known already.

        False where there is none, and others have to leave first; not for one that is alone.
        """
        layout, blocks = _layout(request), request.blocks() if request.cached else []
        count, held = self.prefixes.find(layout, blocks)
        prefixes, size = self.prefixes, self.size_of(request.room)
        if held is not None and prefixes.ends(held, count) and held.size >= size:
            # It goes on where the other one ended.
            request.extent = held
            prefixes.take_over(held, count)
            for key in blocks[count:]:
                prefixes.extend(held, key)
            self._advance(request, count)
        else:
            if held is not None:
                prefixes.touch(held)
            extent = self._range(request.room, alone)
            if extent is None:
                return False
            request.extent, request.filled = extent, 0
            prefixes.open(request.extent, layout, blocks)
        self._write(request)
        self.reuse(request)
        return True

    def reuse(self, request: Request) -> None:
        """Copy what others have of its blocks, and it has not."""
        if not request.cached:
            return
        count, held = self.prefixes.shared(request.extent)
        stop = request.position(count)
        if held is not None and stop > request.filled:
            source, target = held.first + request.filled, request.extent.first + request.filled
            self.pool.copy(source, target, stop - request.filled)
            self._advance(request, count)

    def filled(self, request: Request) -> None:
        """Its first `request.filled` positions have been computed."""
        self.prefixes.fill(request.extent, 0, request.block_of(self._sound(request)))

    def committed(self, request: Request) -> None:
        """A block before the active one is final, and so are its keys and values."""
        if request.fixed == request.origin:
            return
        blocks = request.block_of(request.fixed)
        if len(self.prefixes.paths[request.extent]) == blocks:  # the layout, and those before
            self.prefixes.extend(request.extent, request.last_fixed())
        request.filled = request.fixed
        self.prefixes.fill(request.extent, blocks - 1, blocks)

    def exchange(self, one: Request, other: Request) -> None:
        """Each has the positions of the other from now on, of which there are as many."""
        first, second = one.extent, other.extent
        self.pool.exchange(first.first, second.first, first.size)
        self.prefixes.exchange(first, second)
        one.extent, other.extent = second, first

    def give(self, request: Request) -> None:
        """Its request has ended."""
        if request.error is None and request.cached:
            self.prefixes.retire(request.extent)
        if request.extent not in self.prefixes.unused:
            self._free(request.extent)

    def lay_out(self, unit: int, requests: int) -> None:
        """With nobody in, units of another length, for so many requests; what is kept moves along,
        behind them."""
        old, kept = self.extents, self.prefixes
        units = requests + len(kept.unused)
        self.extents, self.prefixes = Extents(old.begin, unit, units), Prefixes()
        for _ in range(requests):
            self.extents.take(unit)
        moves = []
        for extent in kept.unused:
            new = self.extents.take(extent.size)
            if new is None:
                break
            moves.append((extent.first, new.first, extent.size))
            keys = [node.key for node in kept.paths[extent]]
            self.prefixes.open(new, keys[0], keys[1:])
            self.prefixes.fill(new, 0, len(keys) - 1)
            self.prefixes.unused[new] = None
        self.extents.give(Extent(old.begin, requests * unit))
        self.pool.rearrange(moves, self.extents.end)
        self.grown += 1

    def _sound(self, request: Request) -> int:
        """How many first positions have keys and values that serve others, too.

        Where a mask hides what stands behind a block, a NaN there still passes into the block: its
        weight is 0, and 0 times NaN is NaN. The last layer has it, if any has. Looked at on a CPU
        alone: elsewhere it would have to be waited for.
        """
        if self.device.type != "cpu" or not self.pool.layers:
            return request.filled
        first = request.extent.first
        layer, rows = self.pool.layers[-1], slice(first, first + request.filled)
        bad = [plane[rows].isnan().flatten(1).any(1) for plane in (layer.keys, layer.values)]
        either = bad[0] | bad[1]
        return int(either.int().argmax()) if either.any() else request.filled

    def _advance(self, request: Request, blocks: int) -> None:
        request.filled = request.position(blocks)
        self.filled(request)

    def _range(self, positions: int, alone: bool) -> Extent | None:
        kept = self.prefixes.unused  # the oldest first
        if self.even and kept:
            self._move_out(min(kept))
        while (extent := self.extents.take(positions)) is None:
            missing = self.extents.missing(positions)
            most = self._left()
            if kept and (not self.even or len(kept) > KEPT or missing > most):
                self._free(next(iter(kept)))
            elif missing > most and not alone:
                return None
            else:
                self._grow(int(max(missing, min(most, len(self.extents.free) // 2))))
        return extent

    def _left(self) -> float:
        """Units that the pool may still grow by."""
        if self.limit == math.inf:
            return math.inf
        return self.limit // self.extents.unit - len(self.extents.free)

    def _move_out(self, extent: Extent) -> None:
        """Keep an extent that nobody uses behind those in use, so that these lie without a gap."""
        kept = self.prefixes.unused
        lowest = self.extents.lowest()
        if extent.size != self.extents.unit or (lowest is not None and lowest < extent.first):
            return
        if len(kept) > KEPT:
            oldest = next(iter(kept))
            self._free(oldest)
            if oldest == extent:
                return
        place = self.extents.take(extent.size)
        if place is None:
            self._grow(max(1, len(self.extents.free) // 2))
            place = self.extents.take(extent.size)
            assert place is not None
        self.pool.copy(extent.first, place.first, extent.size)
        self.prefixes.rename(extent, place)
        self.extents.give(extent)

    def _free(self, extent: Extent) -> None:
        self.prefixes.close(extent)
        self.extents.give(extent)

    def _grow(self, units: int) -> None:
        self.extents.add(units)
        self.pool.resize(self.extents.end)
        self.grown += 1

    def _write(self, request: Request) -> None:
        """What a request begins with, into its extent."""
        pool, (first, size) = self.pool, request.extent
        ids, protected = request.canvas()
        behind = 0, size - len(ids)
        pool.clear(first + request.filled, first + size)
        ids, protected = pad(ids, behind, value=request.mask_token_id), pad(protected, behind)
        pool.ids[first : first + size] = sent(ids, self.device)
        pool.protected[first : first + size] = sent(protected, self.device)


def _layout(request: Request) -> Hashable:
    """Requests of other layouts share no keys and values, whatever their ids."""
    layout = request.block_length, request.first
    if request.fixed < request.start:  # it came back, and what it had may change: nobody shares it
        return *layout, request.number, request.restarts
    return layout
