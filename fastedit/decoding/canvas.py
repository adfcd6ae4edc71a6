"""The canvas: device-side state of all requests that decode now, one slot each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit import ops
from fastedit.decoding.request import Request
from fastedit.policies import POLICIES, JointThreshold


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
        self.live = self.window(slice(0, count))

    def window(self, rows: slice) -> Window:
        return Window(
            rows,
            self.ids[rows],
            self.editable[rows],
            self.state[rows],
            self.policy[rows],
            ops.Sampling(*(field[rows] for field in self.sampling.fields())),
            self.mask_token_id,
            self.strict,
        )


@dataclass(frozen=True)
class Window:
    """The active blocks of some slots: views, so a step on them shows in the canvas."""

    rows: slice
    ids: Tensor
    editable: Tensor
    state: ops.StepState
    policy: JointThreshold
    sampling: ops.Sampling
    mask_token_id: int
    strict: bool

    def masked(self) -> Tensor:
        """Where a mask is still to be committed, bool [n, L]."""
        masks = self.ids == self.mask_token_id
        # The released loop commits a literal mask of the prompt, and never edits it.
        return masks if self.strict else masks & self.editable

    def step_(self, logits: Tensor, sampled: bool) -> None:
        """Let the policy decide one step; logits [n, L, V]."""
        self.policy.step_(
            self.ids,
            logits,
            self.editable | self.masked() if self.strict else self.editable,
            self.state,
            mask_token_id=self.mask_token_id,
            strict_reference=self.strict,
            sampling=self.sampling if sampled else None,
        )
