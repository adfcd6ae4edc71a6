"""Keys and values of committed prefixes: one fixed slot per request, written in place."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class BlockCache(Cache):
    """`slots` prefixes of up to `length` positions each; none until `resize` makes room.

    A forward writes the keys and values of its tokens at their absolute positions and reads every
    position up to the furthest one; the attention mask hides what lies beyond a row's own block.
    Running a block again overwrites it, so the last forward is the one whose values stay.
    """

    layers: list[Any]

    def __init__(self) -> None:
        self.slots = self.length = 0
        self.rows = slice(0, 0)
        self.cached = self.visible = 0
        self.where: Any = None  # index of the positions that the next forward writes
        super().__init__(layers=[])

    def place(
        self,
        rows: slice,
        positions: Tensor,
        furthest: int,
        level: bool,
    ) -> None:
        """The next forwards run rows `rows`, each on its `positions`, consecutive, [n, width].

        furthest: the largest first position, or a bound on it; level: it is that of every row.
        """
        width = positions.shape[1]
        self.rows, self.cached, self.visible = rows, furthest, furthest + width
        if level:
            self.where = (rows, slice(furthest, self.visible))
        else:
            row = torch.arange(rows.start, rows.stop, device=positions.device)
            self.where = (row[:, None], positions)

    def where_on(self, device: torch.device) -> Any:
        """`where` for a layer there: a model may lie on several devices."""
        index = self.where[1]
        if isinstance(index, slice) or index.device == device:
            return self.where
        return tuple(part.to(device) for part in self.where)

    def resize(self, slots: int, length: int) -> None:
        """Room for other numbers of prefixes and positions; keeps what lies within both."""
        rows, columns = min(slots, self.slots), min(length, self.length)
        self.slots, self.length = slots, length
        for layer in self.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros(slots, length, *old.shape[2:])
                new[:rows, :columns] = old[:rows, :columns]
                setattr(layer, name, new)

    def move(self, source: int, target: int) -> None:
        for layer in self.layers:
            layer.keys[target].copy_(layer.keys[source])
            layer.values[target].copy_(layer.values[source])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """key_states, value_states [rows, heads, width, dim] -> [rows, heads, visible, dim]."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_BlockLayer(self))
        return self.layers[layer_idx].update(key_states, value_states)


class _BlockLayer(CacheLayerMixin):
    """One layer's keys and values, [slots, length, heads, dim]."""

    keys: Tensor
    values: Tensor

    def __init__(self, cache: BlockCache) -> None:
        super().__init__()
        # Not held: a cycle would keep the memory of a cache until a garbage collection.
        self.cache = weakref.proxy(cache)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for name, states in (("keys", key_states), ("values", value_states)):
            _, heads, _, dim = states.shape
            # Zeros, not empty: hidden positions are multiplied by a weight of zero.
            setattr(self, name, states.new_zeros(self.cache.slots, self.cache.length, heads, dim))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        where = cache.where_on(self.keys.device)
        self.keys[where] = key_states.transpose(1, 2)
        self.values[where] = value_states.transpose(1, 2)
        return (
            self.keys[cache.rows, : cache.visible].transpose(1, 2),
            self.values[cache.rows, : cache.visible].transpose(1, 2),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.visible, 0

    def get_seq_length(self) -> int:
        return self.cache.cached

    def get_max_length(self) -> int:
        return self.cache.length
