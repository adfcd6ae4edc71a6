"""The best token outside a set in plain torch: what the other back ends must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.plain import LARGEST, ban_, finite, row_sum


def best_outside(
    logits: Tensor, excluded: Tensor, only: Tensor | None, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Contract: `fastedit.ops.best_outside`. Rows that are not asked for are read here."""
    shape, vocab = excluded.shape[:-1], logits.shape[-1]
    scores, _ = finite(logits.flatten(0, -2))
    weights = (scores - scores.amax(-1, keepdim=True).clamp(min=-LARGEST)).exp()
    excluded = excluded.reshape(len(scores), excluded.shape[-1])
    inside = (excluded >= 0) & (excluded < vocab)
    limit = torch.where(inside, -torch.inf, torch.inf)  # what is outside limits nothing
    scores.scatter_reduce_(-1, torch.where(inside, excluded, 0), limit, "amin")
    best, token = ban_(scores, forbid).max(-1)
    exists = best > -torch.inf
    if only is not None:
        exists &= only.reshape(-1)
    prob = weights.gather(-1, token[:, None]).squeeze(-1) / row_sum(weights)
    token, prob = torch.where(exists, token, -1), torch.where(exists, prob, 0.0)
    return token.reshape(shape), prob.reshape(shape)
