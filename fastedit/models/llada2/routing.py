"""Which experts a token goes to: group-limited top-k, or a pool shared by the block (LLaDA2.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from .configuration import LLaDA2MoeConfig


class RoutingBlocks(NamedTuple):
    """The diffusion block of every token of a forward, rows flattened."""

    ids: Tensor  # [B*Q] int64, below B*Q; equal for the tokens of one block of one row
    votes: Tensor | None  # [B*Q] bool, False: padding, has no say in the pool; None: all vote


def routing_blocks(
    positions: Tensor, mask: Tensor | None, block_size: int, keys_by_position: bool = False
) -> RoutingBlocks:
    """Blocks of a forward from token `positions` [B, Q] and its bool `mask` [1 or B, 1, Q, K].

    The tokens' own keys are the last Q of the K, or, with `keys_by_position`, key p is position p.

    A block is a run of consecutive tokens whose positions increase within one aligned block, so
    the halves of a doubled sequence and packed documents stay apart. A token that may not attend
    to itself is padding.
    """
    batch, queries = positions.shape
    block = positions.div(block_size, rounding_mode="floor")
    new = (block != block.roll(1, dims=1)) | (positions <= positions.roll(1, dims=1))
    new[:, 0] = True
    votes = None
    if mask is not None:
        if keys_by_position:
            every = mask[:, 0].expand(batch, -1, -1)
            own = every.gather(-1, positions[..., None])
        else:
            own = mask[:, 0].diagonal(offset=mask.shape[-1] - queries, dim1=-2, dim2=-1)
            own = own.expand(batch, queries)
        votes = own.reshape(-1)
    return RoutingBlocks(new.reshape(-1).cumsum(0) - 1, votes)


class LLaDA2MoeRouter(nn.Module):
    """Sigmoid router in fp32. `expert_bias` only selects; weights come from the plain scores."""

    expert_bias: Tensor

    def __init__(self, config: LLaDA2MoeConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.n_group = config.n_group
        self.topk_group = config.topk_group
        self.capacity = config.expert_capacity
        self.scaling = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts, dtype=torch.float32))

    def _apply(self, fn, recurse=True):
        bias = self.expert_bias
        super()._apply(fn, recurse)
        if self.expert_bias.dtype != torch.float32:  # a cast of the model must not touch the bias
            self.expert_bias = bias.to(self.expert_bias.device)
        return self

    def forward(self, hidden: Tensor, blocks: RoutingBlocks | None) -> tuple[Tensor, Tensor]:
        """`hidden` [N, H] -> expert ids [N, k] int64 and weights [N, k] fp32; ties: lowest id."""
        with maybe_autocast(hidden.device.type, enabled=False):
            scores = F.linear(hidden.float(), self.weight.float()).sigmoid()
        with torch.no_grad():
            choice = scores + self.expert_bias
            if self.capacity is not None and blocks is not None:
                choice = limit_to_pools(choice, blocks, self.capacity)
            elif self.topk_group < self.n_group:
                choice = limit_to_groups(choice, self.n_group, self.topk_group)
            experts = top(choice, self.top_k)
        weights = scores.gather(1, experts)
        if self.top_k == 1:  # the released router normalises from two experts on
            return experts, weights * self.scaling
        return experts, weights * (self.scaling / (weights.sum(-1, keepdim=True) + 1e-20))


def top(scores: Tensor, k: int) -> Tensor:
    """Indices [N, k] of the `k` largest of each row of [N, E]; ties: lowest index."""
    if torch.onnx.is_in_onnx_export():  # no stable sort there, but a TopK with these very ties
        return scores.topk(k, dim=-1).indices
    return scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]


def limit_to_groups(choice: Tensor, n_group: int, topk_group: int) -> Tensor:
    """-inf outside the `topk_group` groups whose two best experts have the largest sum. [N, E]"""
    grouped = choice.unflatten(-1, (n_group, -1))
    kept = top(grouped.topk(2, dim=-1).values.sum(-1), topk_group)
    closed = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter_(1, kept, False)
    return grouped.masked_fill(closed[..., None], float("-inf")).flatten(1)


def limit_to_pools(choice: Tensor, blocks: RoutingBlocks, capacity: int) -> Tensor:
    """-inf outside the `capacity` experts a block wants most, by any voting token. [N, E]

    LLaDA2.2 report, section 2.2, eq. 1. A block in which nobody votes admits the lowest ids.
    """
    ballots = choice
    if blocks.votes is not None:
        ballots = choice.masked_fill(~blocks.votes[:, None], float("-inf"))
    wanted = torch.full_like(choice, float("-inf"))
    wanted.scatter_reduce_(0, blocks.ids[:, None].expand_as(choice), ballots, "amax")
    closed = torch.ones_like(choice, dtype=torch.bool)
    closed.scatter_(1, top(wanted, capacity), False)
    return choice.masked_fill(closed[blocks.ids], float("-inf"))
