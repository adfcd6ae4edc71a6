"""The best positions of each document or block."""

from __future__ import annotations

import torch
from torch import Tensor


def counts_in(where: Tensor, group: Tensor) -> Tensor:
    """For every token, how many True positions of `where` [B, L] its group has: int64 [B, L].

    group  [B, L] int64, what a token belongs to: equal numbers are one group
    """
    _, group = group.unique(return_inverse=True)
    return torch.bincount(group[where], minlength=int(group.max()) + 1)[group]


def best_of_each(score: Tensor, where: Tensor, group: Tensor, count: Tensor) -> Tensor:
    """The positions of highest `score` among `where` of each group, bool [B, L].

    As many as `count` [B, L] says at its tokens, or all where there are fewer. On ties the earlier
    position.
    """
    places = where.flatten().nonzero().squeeze(1)
    order = score.flatten()[places].argsort(descending=True, stable=True)
    order = order[group.flatten()[places][order].argsort(stable=True)]  # by group, then score
    chosen = places[order]
    _, member, size = torch.unique_consecutive(
        group.flatten()[chosen], return_inverse=True, return_counts=True
    )
    first = size.cumsum(0) - size
    rank = torch.arange(len(order), device=score.device) - first[member]
    chosen = chosen[rank < count.flatten()[chosen]]
    return torch.zeros_like(where).flatten().index_fill_(0, chosen, True).view_as(where)
