"""Attention with its norm, and the mask as each attention implementation takes it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from fastedit.models.masks import open_empty_rows

from . import varlen
from .configuration import LLaDA2MoeConfig
from .rotary import rotate


def convert_mask(mask: Tensor | None, implementation: str | None, groups: int, like: Tensor) -> Any:
    """`mask` (bool [1 or B, 1, Q, K] or None) for `implementation`, once per forward.

    Repeated for the `groups` query heads that share a key head: [1 or B, 1, groups * Q, K].
    flex_attention takes a BlockMask, the others (and anything registered by a user) an additive
    mask in the dtype of the activations `like` [B, Q, H]. SDPA would take bool too, and then make
    this very tensor once per layer. Of a mask that is one row for all queries, expanded, only that
    row is converted.
    """
    if mask is None:
        return None
    queries = mask.shape[2]
    alike = mask.stride(2) == 0
    mask = open_empty_rows(mask[:, :, :1] if alike else mask)
    if alike and implementation != "flex_attention":
        return _additive(mask, like).expand(-1, -1, groups * queries, -1)
    mask = mask.expand(-1, -1, queries, -1).repeat(1, 1, groups, 1)
    return flex_mask(mask) if implementation == "flex_attention" else _additive(mask, like)


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return zero.masked_fill(~mask, torch.finfo(like.dtype).min)


def flex_mask(mask: Tensor) -> Any:
    """BlockMask of a bool mask [1 or B, 1, Q, K], so that flex attention skips empty tiles."""
    from torch.nn.attention.flex_attention import create_block_mask

    if mask.shape[1] != 1:
        raise ValueError(
            "flex_attention takes masks shared by all heads: [batch, 1, queries, keys]"
        )

    rows, _, queries, keys = mask.shape

    def allowed(batch, head, query, key):
        return mask[batch if rows > 1 else 0, 0, query, key]  # one mask may serve all rows

    return create_block_mask(allowed, rows, None, queries, keys, device=mask.device)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Plain attention, softmax in fp32. `query` [B, heads, groups * Q, D], the others K long.

    Returns the output [B, groups * Q, heads, D] and the weights [B, heads * groups, Q, K], which
    the output is made of, so that gradients reach them.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = weights.unflatten(2, (module.groups, -1)).flatten(1, 2)
    return (weights.view(scores.shape) @ value).transpose(1, 2), weights


class LLaDA2MoeRMSNorm(nn.Module):
    """w * cast(x / rms(x)): statistics in fp32, cast back before the weight."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32:  # no cast in between: one operation
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # Narrower dtypes are widened inside; under autocast the result comes back in fp32.
        return self.weight * F.rms_norm(x, self.weight.shape, eps=self.eps).to(x.dtype)


class LLaDA2MoeAttention(nn.Module):
    """Grouped-query attention with one fused projection; q and k are normalised before rotary.

    The query heads that share a key head are laid end to end along the queries, so no attention
    implementation has to copy keys and values: they are most of the bytes of a cached step.
    """

    is_causal = False

    def __init__(self, config: LLaDA2MoeConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.heads = (heads, kv_heads)
        self.groups = heads // kv_heads
        self.query_key_value = nn.Linear(
            config.hidden_size, (heads + 2 * kv_heads) * self.head_dim, bias=False
        )
        self.query_layernorm = LLaDA2MoeRMSNorm(self.head_dim, config.rms_norm_eps)
        self.key_layernorm = LLaDA2MoeRMSNorm(self.head_dim, config.rms_norm_eps)
        self.dense = nn.Linear(heads * self.head_dim, config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, mask: Any, rotary: tuple[Tensor, Tensor], cache: Cache | None
    ) -> tuple[Tensor, Tensor | None]:
        """`hidden` [B, Q, H] -> output [B, Q, H], and weights where the implementation has them."""
        batch, queries, _ = hidden.shape
        qkv = self.query_key_value(hidden).view(batch, queries, -1, self.head_dim).transpose(1, 2)
        query, key, value = qkv.split((*self.heads, self.heads[1]), dim=1)
        normal = torch.cat((self.query_layernorm(query), self.key_layernorm(key)), dim=1)
        query, key = rotate(normal, *rotary).split(self.heads, dim=1)
        if cache is not None:
            flat = {"flat": True} if isinstance(mask, varlen.Lengths) else {}
            key, value = cache.update(key, value, self.layer_idx, **flat)
        query = query.reshape(batch, -1, self.groups * queries, self.head_dim)
        output, weights = self._attend(query, key, value, mask)
        output = output.view(batch, self.groups, queries, -1, self.head_dim).permute(0, 2, 3, 1, 4)
        return self.dense(output.reshape(batch, queries, -1)), weights

    def _attend(self, query, key, value, mask) -> tuple[Tensor, Tensor | None]:
        if isinstance(mask, varlen.Lengths):
            return varlen.attention(query, key, value, mask, self.scaling), None
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        return attention(
            self, query, key, value, mask, dropout=0.0, scaling=self.scaling, is_causal=False
        )
