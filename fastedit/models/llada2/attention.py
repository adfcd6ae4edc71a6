"""Turning the bool mask of a forward into what each attention implementation takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .masks import open_empty_rows


def convert_mask(mask: Tensor | None, implementation: str | None, like: Tensor) -> Any:
    """`mask` (bool [1 or B, 1, Q, K] or None) for `implementation`, once per forward.

    sdpa takes bool, flex_attention a BlockMask, eager (and anything registered by a user) an
    additive mask in the dtype of the activations `like` [B, Q, H].
    """
    if mask is None:
        return None
    mask = open_empty_rows(mask)
    if implementation == "sdpa":
        return mask
    if implementation == "flex_attention":
        return flex_mask(mask)
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return zero.masked_fill(~mask, torch.finfo(like.dtype).min)


def flex_mask(mask: Tensor) -> Any:
    """BlockMask of a bool mask [1 or B, 1, Q, K], so that flex attention skips empty tiles."""
    from torch.nn.attention.flex_attention import create_block_mask

    if mask.shape[1] != 1:
        raise ValueError(
            "flex_attention takes masks shared by all heads: [batch, 1, queries, keys]"
        )

    def allowed(batch, head, query, key):
        return mask[batch, 0, query, key]

    batch, _, queries, keys = mask.shape
    return create_block_mask(allowed, batch, None, queries, keys, device=mask.device)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Plain attention, softmax in fp32. `query` [B, heads, Q, D], `key`/`value` [B, kv, K, D].

    Returns the output [B, Q, heads, D] and the weights [B, heads, Q, K].
    """
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights
