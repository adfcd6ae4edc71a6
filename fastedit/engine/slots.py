"""The canvas: device-side state of all requests that decode now, one slot each."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastedit import ops
from fastedit.engine.request import Request
from fastedit.policies import POLICIES, JointThreshold


class Canvas:
    """Tensors for `slots` requests; positions are added by `grow`.

    tokens    [slots, length] int64  prompt, committed blocks, masks
    start     [slots] int64          first position of the active blocks
    final     [slots] int64          first position of the last blocks
    ids       [slots, L] int64       the active blocks, written in place by the policy
    editable  [slots, L] bool        False at prompt positions
    held      [slots] bool           the block is final, the next forward refreshes its KV
    state     StepState [slots]      of the active blocks

    A free slot holds a last block that is done: a step may run over it, and changes nothing.
    """

    def __init__(
        self, slots: int, request: Request, mask_token_id: int, device: torch.device
    ) -> None:
        config = request.config
        self.block_length, self.mask_token_id = request.block_length, mask_token_id
        self.strict, self.cached = config.strict_reference, config.use_cache
        self.offsets = torch.arange(self.block_length, device=device)

        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full((slots, *shape), value, dtype=dtype, device=device)

        self.tokens = full(mask_token_id, torch.int64, 0)
        self.start = full(0, torch.int64)
        self.final = full(0, torch.int64)
        self.held = full(False, torch.bool)
        self.ids = full(mask_token_id, torch.int64, self.block_length)
        self.editable = full(True, torch.bool, self.block_length)
        self.state = ops.StepState.new(slots, device)
        self.state.done.fill_(True)
        self.policy = POLICIES[config.policy](
            threshold=full(0, torch.float32),
            editing_threshold=full(0, torch.float32),
            max_post_steps=full(0, torch.int32),
            num_to_transfer=full(1, torch.int32),
        )
        self.sampling = ops.Sampling(
            temperature=full(0, torch.float32),
            top_k=full(0, torch.int64),
            top_p=full(1, torch.float32),
            seed=full(0, torch.int64),
            start=self.start,
        )

    def grow(self, length: int) -> None:
        """Room for requests of `length` positions; windows made before keep the old tokens."""
        slots, before = self.tokens.shape
        more = self.tokens.new_full((slots, length - before), self.mask_token_id)
        self.tokens = torch.cat((self.tokens, more), dim=1)

    def load(self, slot: int, request: Request) -> None:
        """Put a request into `slot` and open its active block."""
        config, length = request.config, self.block_length
        tau = config.editing_threshold
        known = request.known.to(self.tokens.device)
        self.tokens[slot] = self.mask_token_id
        self.tokens[slot, : len(known)] = known
        block = slice(request.start, request.start + length)
        values: tuple[tuple[Tensor, Any], ...] = (
            (self.start, request.start),
            (self.final, request.last),
            (self.ids, self.tokens[slot, block]),
            (self.held, False),
            (self.editable, self.offsets >= request.head),
            (self.policy.threshold, config.threshold),
            (self.policy.editing_threshold, math.inf if tau is None else tau),
            (self.policy.max_post_steps, config.max_post_steps),
            (self.policy.num_to_transfer, config.num_to_transfer),
            (self.sampling.temperature, config.temperature),
            (self.sampling.top_k, max(config.top_k or 0, 0)),
            (self.sampling.top_p, 1.0 if config.top_p is None else config.top_p),
            (self.sampling.seed, (request.seed + 2**63) % 2**64 - 2**63),  # as signed 64 bits
            *((field, 0) for field in self.state.fields()),
        )
        for tensor, value in values:
            tensor[slot] = value

    def free(self, slots: slice) -> None:
        self.start[slots] = self.final[slots] = 0
        self.state.done[slots] = True

    def move(self, source: int, target: int) -> None:
        groups = (self.state, self.policy, self.sampling)  # `sampling` has `start`
        for tensor in (tensor for group in groups for tensor in vars(group).values()):
            tensor[target] = tensor[source]
        for tensor in (self.tokens, self.final, self.ids, self.editable, self.held):
            tensor[target] = tensor[source]

    def select(self, count: int) -> None:
        """Let the next steps work on the first `count` slots."""
        self.live = self.window(slice(0, count))

    def window(self, rows: slice) -> Window:
        sampling = ops.Sampling(*(field[rows] for field in self.sampling.fields()))
        return Window(
            weakref.proxy(self),  # `live` is one of them, and a cycle would hold the memory
            rows,
            self.tokens[rows],
            sampling.start,
            self.final[rows],
            self.ids[rows],
            self.editable[rows],
            self.held[rows],
            self.state[rows],
            self.policy[rows],
            sampling,
        )


@dataclass(frozen=True)
class Window:
    """The active blocks of some slots: views, so a step on them shows in the canvas."""

    canvas: Canvas
    rows: slice
    tokens: Tensor
    start: Tensor
    final: Tensor
    ids: Tensor
    editable: Tensor
    held: Tensor
    state: ops.StepState
    policy: JointThreshold
    sampling: ops.Sampling

    def masked(self) -> Tensor:
        """Where a mask is still to be committed, bool [n, L]."""
        masks = self.ids == self.canvas.mask_token_id
        # The released loop commits a literal mask of the prompt, and never edits it.
        return masks if self.canvas.strict else masks & self.editable

    def step_(self, logits: Tensor, sampled: bool) -> None:
        """Let the policy decide one step; logits [n, L, V]."""
        strict = self.canvas.strict
        self.policy.step_(
            self.ids,
            logits,
            self.editable | self.masked() if strict else self.editable,
            self.state,
            mask_token_id=self.canvas.mask_token_id,
            strict_reference=strict,
            sampling=self.sampling if sampled else None,
        )

    def write_(self) -> None:
        """The blocks as they stand, into the tokens."""
        self.tokens.scatter_(1, self.start[:, None] + self.canvas.offsets, self.ids)

    def advance_(self) -> None:
        """Open the next block of every row that is done; no value is read on the host.

        A block whose last step changed ids is held for one more forward, which decides nothing,
        since the keys and values in the cache are of older ids. Rows that are done with their last
        block, or whose logits were bad, stay as they are.
        """
        done = self.state.done
        settled = self.held | ~self.state.dirty if self.canvas.cached else True
        onward = done & settled & (self.start < self.final) & ~self.state.bad
        self.held.copy_(done & ~onward)
        self.write_()
        self.ids.masked_fill_(onward[:, None], self.canvas.mask_token_id)
        self.editable.logical_or_(onward[:, None])
        self.start.add_(onward, alpha=self.canvas.block_length)
        for field in self.state.fields():
            field.masked_fill_(onward, 0)
