"""The slots: device-side state of all requests that decode now, and its one state machine."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.engine.request import Request
from fastedit.policies import State


class Slots:
    """Tensors for a number of requests; positions are added by `grow`.

    tokens  [slots, length] int64  prompt, committed blocks, masks
    start   [slots] int64          first position of the active blocks
    final   [slots] int64          first position of the last blocks
    held    [slots] bool           the block is final, the next forward refreshes its KV
    blocks  policies.State [slots] the active blocks, written in place by the policy

    Unused slots are marked done, so a step over them changes nothing.
    """

    def __init__(
        self,
        slots: int,
        request: Request,
        mask_token_id: int,
        device: torch.device,
        vocab: int | None = None,
    ) -> None:
        config = request.config
        self.block_length, self.mask_token_id = request.block_length, mask_token_id
        self.cached = request.cached
        self.offsets = torch.arange(self.block_length, device=device)

        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full((slots, *shape), value, dtype=dtype, device=device)

        self.tokens = full(mask_token_id, torch.int64, 0)
        self.start = full(0, torch.int64)
        self.final = full(0, torch.int64)
        self.held = full(False, torch.bool)
        self.blocks = State.new(
            request.policy,
            full(mask_token_id, torch.int64, self.block_length),
            mask_token_id,
            strict=config.strict_reference,
            start=self.start,
        )
        self.blocks.vocab = vocab
        self.blocks.done.fill_(True)

    def grow(self, length: int) -> None:
        """Room for requests of `length` positions; views made before keep the old tokens."""
        slots, before = self.tokens.shape
        more = self.tokens.new_full((slots, length - before), self.mask_token_id)
        self.tokens = torch.cat((self.tokens, more), dim=1)

    def load(self, slot: int, request: Request) -> None:
        """Put a request into `slot` and open its active block."""
        config, blocks, sampling = request.config, self.blocks, self.blocks.sampling
        known = request.known.to(self.tokens.device)
        self.tokens[slot] = self.mask_token_id
        self.tokens[slot, : len(known)] = known
        self.start[slot], self.final[slot], self.held[slot] = request.start, request.last, False
        sampling.temperature[slot] = config.temperature
        filters = config.temperature > 0.0  # without one, both have no effect
        sampling.top_k[slot] = max(config.top_k or 0, 0) if filters else 0
        sampling.top_p[slot] = 1.0 if config.top_p is None or not filters else config.top_p
        sampling.seed[slot] = (request.seed + 2**63) % 2**64 - 2**63  # as signed 64 bits
        blocks.set_policy(slot, request.policy, self.block_length)
        blocks.editable[slot] = self.offsets >= request.head
        blocks.reset(slot)
        row = slice(slot, slot + 1)
        opened = blocks.policy.open(self.view(row).blocks)[0]
        block = self.tokens[slot, request.start : request.start + self.block_length]
        blocks.ids[slot] = torch.where(blocks.editable[slot], opened, block)

    def free(self, slots: slice) -> None:
        self.start[slots] = self.final[slots] = 0
        self.blocks.done[slots] = True

    def move(self, source: int, target: int) -> None:
        for tensor in (self.tokens, self.final, self.held, *self.blocks.fields()):
            tensor[target] = tensor[source]  # `start` is among the fields

    def select(self, count: int, draws: bool) -> None:
        """Let the next steps work on the first `count` slots; `draws`: one has a temperature."""
        self.live = self.view(slice(0, count))
        self.live.blocks.draws = draws

    def view(self, rows: slice) -> Live:
        blocks = self.blocks[rows]
        blocks.draws, blocks.vocab = True, self.blocks.vocab
        return Live(
            weakref.proxy(self),  # `live` is one of them, and a cycle would hold the memory
            rows,
            self.tokens[rows],
            self.start[rows],
            self.final[rows],
            self.held[rows],
            blocks,
        )


@dataclass(frozen=True)
class Live:
    """Some slots as views, so a step on them shows in the whole."""

    slots: Slots
    rows: slice
    tokens: Tensor
    start: Tensor
    final: Tensor
    held: Tensor
    blocks: State

    def write_(self) -> None:
        """The blocks as they stand, into the tokens."""
        self.tokens.scatter_(1, self.start[:, None] + self.slots.offsets, self.blocks.ids)

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
        self.write_()
        self.start.add_(onward, alpha=self.slots.block_length)
        blocks.reset(onward)
        opened = onward[:, None]
        blocks.ids.copy_(torch.where(opened, blocks.policy.open(blocks), blocks.ids))
        blocks.editable.logical_or_(opened)
