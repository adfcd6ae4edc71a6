"""Highest scores in plain torch: two stable sorts give every position its rank."""

from __future__ import annotations

import torch
from torch import Tensor


def highest(score: Tensor, among: Tensor, count: Tensor, unless: Tensor | None) -> Tensor:
    """Contract: `fastedit.ops.highest`."""
    # -inf of its own may tie with positions that are not among them: those sort behind all others.
    known = torch.where(score == score, score, -torch.inf)
    order = known.argsort(dim=-1, descending=True, stable=True)
    behind = (~among).gather(1, order).to(torch.int8).argsort(dim=-1, stable=True)
    rank = order.gather(1, behind).argsort(dim=-1)
    chosen = among & (rank < count[:, None])
    if unless is None:
        return chosen
    return torch.where((unless.sum(-1) >= count)[:, None], unless, chosen)
