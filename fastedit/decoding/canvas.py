"""The canvas: device-side state of all requests that decode now, one slot each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastedit import ops
from fastedit.decoding.request import Request
from fastedit.policies import POLICIES


class Canvas:
    """Preallocated tensors for `slots` requests of at most `length` positions.

    tokens    [slots, length] int64  prompt, committed blocks, masks
    ids       [slots, L] int64       the active blocks, written in place by the policy
    editable  [slots, L] bool        False at prompt positions
    state     StepState [slots]      of the active blocks
    """

    def __init__(
        self, slots: int, length: int, request: Request, mask_token_id: int, device: torch.device
    ) -> None:
        config = request.config
        self.block_length, self.mask_token_id = config.block_length, mask_token_id
        self.strict = config.strict_reference

        def full(value: float, dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.full((slots, *shape), value, dtype=dtype, device=device)

        self.tokens = full(mask_token_id, torch.int64, length)
        self.ids = full(mask_token_id, torch.int64, self.block_length)
        self.editable = full(True, torch.bool, self.block_length)
        self.state = ops.StepState.new(slots, device)
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
            start=full(0, torch.int64),
        )

    def load(self, slot: int, request: Request) -> None:
        """Put a new request into `slot` and open its first block."""
        config = request.config
        tau = config.editing_threshold
        self.tokens[slot] = self.mask_token_id
        self.tokens[slot, : len(request.prompt)] = request.prompt.to(self.tokens.device)
        for tensor, value in (
            (self.policy.threshold, config.threshold),
            (self.policy.editing_threshold, math.inf if tau is None else tau),
            (self.policy.max_post_steps, config.max_post_steps),
            (self.policy.num_to_transfer, config.num_to_transfer),
            (self.sampling.temperature, config.temperature),
            (self.sampling.top_k, max(config.top_k or 0, 0)),
            (self.sampling.top_p, 1.0 if config.top_p is None else config.top_p),
            (self.sampling.seed, (request.seed + 2**63) % 2**64 - 2**63),  # as signed 64 bits
        ):
            tensor[slot] = value
        self.open_block(slot, request)

    def open_block(self, slot: int, request: Request) -> None:
        """Make the block at `request.start` the active one of `slot`."""
        block = slice(request.start, request.start + self.block_length)
        self.ids[slot] = self.tokens[slot, block]
        self.editable[slot] = True
        self.editable[slot, : request.head] = False
        self.sampling.start[slot] = request.start
        for field in self.state.fields():
            field[slot] = 0

    def close_block(self, slot: int, request: Request) -> None:
        block = slice(request.start, request.start + self.block_length)
        self.tokens[slot, block] = self.ids[slot]

    def move(self, source: int, target: int) -> None:
        for group in (self.state, self.policy, self.sampling):
            for tensor in vars(group).values():
                tensor[target] = tensor[source]
        for tensor in (self.tokens, self.ids, self.editable):
            tensor[target] = tensor[source]

    def select(self, count: int) -> None:
        """Let the next steps work on the first `count` slots."""
        rows = slice(0, count)
        self.rows, self.live_state = rows, self.state[rows]
        self.live_ids, self.live_editable = self.ids[rows], self.editable[rows]
        self.live_policy = self.policy[rows]
        self.live_sampling = ops.Sampling(*(field[rows] for field in self.sampling.fields()))

    def step_(self, logits: Tensor, sampled: bool) -> None:
        """Let the policy decide one step for the selected blocks; logits [count, L, V]."""
        editable = self.live_editable
        if (
            self.strict
        ):  # the released loop commits a literal mask of the prompt, and never edits it
            editable = editable | (self.live_ids == self.mask_token_id)
        self.live_policy.step_(
            self.live_ids,
            logits,
            editable,
            self.live_state,
            mask_token_id=self.mask_token_id,
            strict_reference=self.strict,
            sampling=self.live_sampling if sampled else None,
        )
