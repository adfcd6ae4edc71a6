"""The pool: ids, keys and values of all requests by position, written in place.

Every request has an extent of consecutive positions for as long as it decodes. It stays where it is
whoever comes and goes beside it, but on a CPU, where one that ends may give its extent to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from fastedit.memory.extents import Extent


class Pool:
    """Room for `positions` positions; none until `resize` makes room.

    ids        [positions] int64  what stands there, or is to be started from
    protected  [positions] bool   prompts: what never changes
    layers     keys and values of each, made by the first forward
    """

    def __init__(self, device: torch.device) -> None:
        self.positions = 0
        self.ids = torch.empty(0, dtype=torch.int64, device=device)
        self.protected = torch.empty(0, dtype=torch.bool, device=device)
        self.layers: list[Layer] = []

    def resize(self, positions: int) -> None:
        """Room for more positions; keeps what is there."""
        self.rearrange([(0, 0, self.positions)], positions)

    def rearrange(self, moves: Sequence[tuple[int, int, int]], positions: int) -> None:
        """Lay everything out anew: (from, to, how many) per range that is kept."""
        planes: list[tuple[Any, str]] = [(self, "ids"), (self, "protected")]
        planes += [(layer, name) for layer in self.layers for name in ("keys", "values")]
        for owner, name in planes:
            old = getattr(owner, name)
            new = old.new_zeros(positions, *old.shape[1:])
            for source, target, count in moves:
                new[target : target + count] = old[source : source + count]
            setattr(owner, name, new)
        self.positions = positions

    def clear(self, first: int, last: int) -> None:
        """Forget these positions: a NaN left behind would pass through any mask."""
        for layer in self.layers:
            layer.keys[first:last] = 0
            layer.values[first:last] = 0

    def exchange(self, one: int, other: int, count: int) -> None:
        """Swap what is at two ranges of `count` positions that do not meet."""
        planes = [self.ids, self.protected]
        planes += [plane for layer in self.layers for plane in (layer.keys, layer.values)]
        for plane in planes:
            first, second = plane[one : one + count], plane[other : other + count]
            held = first.clone()
            first.copy_(second)
            second.copy_(held)

    def copy(self, source: int, target: int, count: int) -> None:
        """Keys and values of `count` positions."""
        for layer in self.layers:
            layer.keys[target : target + count] = layer.keys[source : source + count]
            layer.values[target : target + count] = layer.values[source : source + count]


class Layer:
    """One layer's keys and values, [positions, heads, dim]."""

    def __init__(self, positions: int, keys: Tensor, values: Tensor) -> None:
        # Zeros, not empty: hidden positions are multiplied by a weight of zero.
        self.keys, self.values = (
            states.new_zeros(positions, states.shape[1], states.shape[3])
            for states in (keys, values)
        )


class Rows(Cache):
    """The rows of a forward: where in the pool their keys and values are written and read.

    A forward writes those of its rows into their extents, and reads every position of a row's
    extent up to the furthest one of all rows; the attention mask hides what lies beyond a row's own
    block. Running a block again overwrites it, so the last forward is the one whose values stay.

    pool      that they are in
    offsets   int64 [n], first positions of the rows' extents
    positions int64 [n, width], counted in their extents, consecutive
    furthest  the largest first position of a row, or a bound on it
    extents   of the rows, where the host may say how they lie. Where they lie evenly, and no row
              reads beyond its own, they are read in place; else they are copied together
    sizes     int64 [n] of the extents, where they may be shorter than what is read
    level     whether all rows begin at `furthest`
    """

    def __init__(
        self,
        pool: Pool,
        offsets: Tensor,
        positions: Tensor,
        furthest: int,
        extents: Sequence[Extent] | None = None,
        *,
        sizes: Tensor | None = None,
        level: bool = False,
    ) -> None:
        super().__init__(layers=[])
        rows, width = positions.shape
        self.pool, self.cached, self.visible = pool, furthest, furthest + width
        first, stride = _evenly(extents, self.visible) if extents else (0, None)
        self.where: Any = offsets[:, None] + positions
        if level and stride is not None:
            self.where = rows, first + furthest, stride, width
        self.read: Any = None
        if stride is not None:
            self.read = rows, first, stride, self.visible
        else:
            columns = torch.arange(self.visible, device=offsets.device)[None]
            if sizes is not None:
                columns = torch.minimum(columns, sizes[:, None] - 1)
            self.read = offsets[:, None] + columns

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        flat: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """key_states, value_states [rows, heads, width, dim] -> [rows, heads, visible, dim].

        flat: for attention that is told where rows begin, all of the pool [1, heads, positions,
        dim].
        """
        layers = self.pool.layers
        while len(layers) <= layer_idx:
            layers.append(Layer(self.pool.positions, key_states, value_states))
        layer = layers[layer_idx]
        for plane, states in ((layer.keys, key_states), (layer.values, value_states)):
            _write(plane, self.where, states.transpose(1, 2))
        if flat:
            return layer.keys[None].transpose(1, 2), layer.values[None].transpose(1, 2)
        keys, values = _read(layer.keys, self.read), _read(layer.values, self.read)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        return self.visible, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cached

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return self.pool.positions


def _evenly(extents: Sequence[Extent], visible: int) -> tuple[int, int | None]:
    """Where extents begin, and how far each is behind the one before.

    The second is None where they differ in that, or one is shorter than what is read of it.
    """
    first, *others = (extent.first for extent in extents)
    steps = {b - a for a, b in pairwise((first, *others))} or {visible}
    step = steps.pop()
    short = any(extent.size < visible for extent in extents)
    return first, None if steps or short or step < 0 else step


def _rows(plane: Tensor, rows: int, first: int, stride: int, count: int) -> Tensor:
    """A view [rows, count, ...]: row i begins at position `first + i * stride`."""
    step = plane.stride(0)
    shape = (rows, count, *plane.shape[1:])
    return plane.as_strided(shape, (stride * step, *plane.stride()), first * step)


def _read(plane: Tensor, where: Any) -> Tensor:
    """Of a plane [positions, heads, dim], what `Rows.read` says: [rows, visible, heads, dim].

    A layer may lie on another device than the rows.
    """
    if isinstance(where, tuple):
        return _rows(plane, *where)
    return plane[where.to(plane.device)]


def _write(plane: Tensor, where: Any, values: Tensor) -> None:
    if isinstance(where, tuple):
        _rows(plane, *where).copy_(values)
    else:
        plane[where.to(plane.device)] = values
