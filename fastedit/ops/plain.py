"""Plain torch: what the references of several operations share, and the back end that always runs.

Batch-invariant: every reduction runs within one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEVICES = ()  # chosen by default only where no other back end serves

LARGEST = torch.finfo(torch.float32).max


def why_not(device: str) -> str | None:
    return None


def finite(logits: Tensor) -> tuple[Tensor, Tensor]:
    """A fresh fp32 copy, NaN as -inf and +inf as the largest number; and which rows had either."""
    raw = logits.float()
    bad = ~(raw.amax(-1) < torch.inf)  # amax hands a NaN on
    return raw.nan_to_num(nan=-torch.inf, posinf=LARGEST, neginf=-torch.inf), bad


def ban_(scores: Tensor, forbid: tuple[int, ...]) -> Tensor:
    for token in forbid:
        scores[..., token] = -torch.inf
    return scores


def best_(
    scores: Tensor, current: Tensor, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_choose`, without a second tensor of the size of the logits. Overwrites `scores`."""
    held = [scores[..., token].clone() for token in forbid]
    best, token = ban_(scores, forbid).max(-1)
    for forbidden, score in zip(forbid, held, strict=True):
        scores[..., forbidden] = score
    top = scores.amax(-1).clamp(min=-LARGEST)  # a row of -inf only
    total = row_sum(scores.sub_(top[..., None]).exp_())
    exists = best > -torch.inf
    prob = torch.where(exists, (best - top).exp() / total, 0.0)
    return torch.where(exists, token, current), prob, exists


def probability_of(probs: Tensor, token: Tensor) -> Tensor:
    """probs[r, token[r]], 0 where the token lies outside the vocabulary."""
    vocab = probs.shape[-1]
    inside = (token >= 0) & (token < vocab)
    picked = probs.gather(-1, token.clamp(0, vocab - 1)[..., None]).squeeze(-1)
    return torch.where(inside, picked.nan_to_num(nan=0.0), 0.0)  # only -inf: no softmax


def row_sum(rows: Tensor) -> Tensor:
    """Sum over the last dimension, the same for a row alone: torch would split it over threads."""
    if rows.numel() != rows.shape[-1]:
        return rows.sum(-1)
    return rows.reshape(1, -1).expand(2, -1).sum(-1)[0].reshape(rows.shape[:-1])


def running_sums(values: Tensor) -> Tensor:
    """Inclusive sums along the last dimension, fp32 [n, L], in an order that n does not change."""
    if values.device.type == "cpu":
        return values.cumsum(-1)  # row by row; on a GPU the order depends on the shape
    return doubling_sums(values)


def doubling_sums(values: Tensor) -> Tensor:
    """Inclusive sums by partial sums of 1, 2, 4, ... values, along the last dimension."""
    shift = 1
    while shift < values.shape[-1]:
        values = values + torch.nn.functional.pad(values[:, :-shift], (shift, 0))
        shift *= 2
    return values


def heated_(scores: Tensor, temperature: Tensor) -> Tensor:
    """Relative to the best and divided by the temperature, of which a small one makes no ties."""
    scores -= scores.amax(-1, keepdim=True)
    return scores.nan_to_num_(nan=-torch.inf, neginf=-torch.inf) / temperature


def inverse_cdf(probs: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The first id whose running sum of `probs` [..., V] exceeds `u` [...], and its probability."""
    running = probs.cumsum(-1)
    token = (running <= u[..., None] * running[..., -1:]).sum(-1)
    # Rounding can leave no token above the uniform: then the last one with any mass.
    last = probs.shape[-1] - 1 - (probs > 0.0).flip(-1).int().argmax(-1)
    token = torch.minimum(token, last)
    return token, probs.gather(-1, token[..., None]).squeeze(-1)


def draw_(
    scores: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """One token per row of `scores` [..., V], and its probability after all filters, fp32.

    Forbidden ids are at -inf already; then temperature, top-k, top-p [...], softmax; then the first
    token whose running sum exceeds the uniform `u` [...] (inverse CDF). Overwrites `scores`.
    """
    vocab = scores.shape[-1]
    scores = heated_(scores, temperature[..., None])
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    k = torch.where(top_k > 0, top_k, vocab).clamp(max=vocab)
    kth = ranked.gather(-1, (k - 1)[..., None])
    ranked = ranked.masked_fill(ranked < kth, -torch.inf)
    mass = ranked.softmax(-1).nan_to_num(nan=0.0)
    preceding = torch.nn.functional.pad(mass.cumsum(-1)[..., :-1], (1, 0))
    top_p = torch.where(top_p < 1.0, top_p.clamp(min=0.0), torch.inf)  # sums may pass 1
    ranked = ranked.masked_fill(preceding > top_p[..., None], -torch.inf)
    probs = ranked.softmax(-1).nan_to_num(nan=0.0)
    probs = torch.zeros_like(probs).scatter(-1, order, probs)  # back to vocabulary order
    return inverse_cdf(probs, u)
