"""One forward of the live blocks: positions, masks and the cache around a model call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastedit.engine.request import Request
from fastedit.engine.slots import Canvas

if TYPE_CHECKING:
    from fastedit.engine.kv import BlockCache

# Prompt positions per prefill forward, rounded down to whole blocks: bounds the attention mask.
PREFILL_CHUNK = 2048


class BlockForward:
    """Runs a model on the active blocks of a canvas.

    model: `model(input_ids=[B, Q], attention_mask=bool [B, 1, Q, T], position_ids=[B, Q],
    past_key_values=Cache or None, use_cache=bool)`, the cache as `cache=` where that is its name
    -> an object with `.logits` [B, Q, V].
    With a cache Q is the block length L, or 2 L where the next block rides along (`ahead`);
    without one the forward covers everything up to the blocks.
    """

    def __init__(
        self, model: Callable[..., Any], canvas: Canvas, use_cache: bool, device: torch.device
    ) -> None:
        self.model, self.canvas = model, canvas
        self.cache = _new_cache() if use_cache else None
        self.columns = torch.arange(0, device=device)
        forward = _parameters(model)
        # transformers calls it `cache` from 5.24 on, and warns of the other name.
        renamed = "cache" in forward and "past_key_values" not in forward
        self.cache_name = "cache" if renamed else "past_key_values"
        # A prefill needs no logits; transformers' models can leave most of them out.
        self.last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in forward else {}
        # The decision reads logits of any dtype as fp32: a copy in fp32 would cost three reads.
        self.options: dict[str, Any] = (
            {"upcast_logits": False} if "upcast_logits" in forward else {}
        )
        # What a config may switch on or off for all forwards, and a step has no use for.
        for name, plain in (("output_attentions", False), ("output_hidden_states", False)):
            if getattr(getattr(model, "config", None), name, plain) != plain:
                self.options[name] = plain
        if getattr(getattr(model, "config", None), "return_dict", True) is False:
            self.options["return_dict"] = True

    @property
    def block_length(self) -> int:
        return self.canvas.block_length

    @torch.inference_mode()
    def reserve(self, slots: int, most: int, length: int) -> bool:
        """Room for `slots` requests of `length` positions, and where it has to be made for `most`.

        Keeps the live ones; they fit into both. True when tensors have moved.
        """
        moved = False
        if len(self.columns) < length:
            self.columns, moved = torch.arange(length, device=self.columns.device), True
        if self.canvas.tokens.shape[1] < length:
            self.canvas.grow(length)
            moved = True
        if self.cache is not None and (self.cache.slots < slots or self.cache.length < length):
            self.cache.resize(most, length)
            moved = True
        return moved

    @torch.inference_mode()
    def prefill(self, slot: int, request: Request) -> None:
        """Commit the whole blocks before the active one; a prompt's tail rides in that."""
        if self.cache is None:
            return
        for layer in self.cache.layers:  # a NaN left behind would pass through any mask
            layer.keys[slot] = layer.values[slot] = 0
        chunk = max(PREFILL_CHUNK // self.block_length, 1) * self.block_length
        starts = range(0, request.start, chunk)
        for start in starts:
            stop = min(start + chunk, request.start)
            positions = self.columns[start:stop]
            seen = self.columns[:stop] // self.block_length
            mask = seen[None, :] <= positions[:, None] // self.block_length
            self.cache.place(slice(slot, slot + 1), positions[None], start, level=True)
            ids = self.canvas.tokens[slot : slot + 1, start:stop]
            self._call(ids, mask[None, None], positions[None], **self.last_logits_only)
        if not request.written:  # else it came back, and had its prompt prefilled before
            request.stats.prefill_forwards = len(starts)

    def place(self, furthest: int, level: bool, ahead: bool = False) -> None:
        """Positions and masks of the live blocks; again only when one of them moves.

        furthest: the largest start, or a bound on it; level: it is that of every block.
        ahead: the forward also covers the block after each active one.
        """
        length, self.ahead = self.block_length, ahead
        width = 2 * length if ahead else length
        begin = self.canvas.live.start[:, None]
        self.positions = begin + self.columns[:width]
        self.visible = furthest + width
        columns = self.columns[: self.visible]
        within = (columns < begin + length)[:, None, None, :]  # [n, 1, 1, T]
        if self.cache is None:
            blocks = columns // length
            self.mask = within & (blocks[None, :] <= blocks[:, None])
            return
        seen = None if ahead else self.canvas.live.start.to(torch.int32) + length
        self.cache.place(self.canvas.live.rows, self.positions, furthest, level, seen)
        shape = (len(begin), 1, length, self.visible)
        self.mask = within.expand(shape)
        if ahead:
            following = (columns < begin + width)[:, None, None, :]
            self.mask = torch.cat((self.mask, following.expand(shape)), dim=2)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Logits [n, L, V] of the active blocks, [n, 2 L, V] with the blocks ahead."""
        canvas = self.canvas
        if self.cache is not None:
            ids = canvas.live.ids
            if self.ahead:  # whatever follows an active block is masks
                ids = torch.cat((ids, torch.full_like(ids, canvas.mask_token_id)), dim=1)
            return self._call(ids, self.mask, self.positions)
        canvas.live.write_()
        ids = canvas.live.tokens[:, : self.visible]
        logits = self._call(ids, self.mask, self.columns[None, : self.visible].expand_as(ids))
        return logits.gather(1, self.positions[..., None].expand(-1, -1, logits.shape[-1]))

    def move(self, source: int, target: int) -> None:
        if self.cache is not None:
            self.cache.move(source, target)

    def _call(self, input_ids: Tensor, mask: Tensor, positions: Tensor, **options: int) -> Tensor:
        return self.model(
            **options,
            **self.options,
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=self.cache is not None,
            **{self.cache_name: self.cache},
        ).logits


def _parameters(model: Any) -> Mapping[str, Any]:
    """What a call of `model` takes; the wrappers of peft and `torch.compile` pass on any of it."""
    inner = getattr(model, "_orig_mod", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return inspect.signature(getattr(inner, "forward", inner)).parameters


def _new_cache() -> BlockCache:
    from fastedit.engine.kv import BlockCache  # here, since it imports transformers

    return BlockCache()
