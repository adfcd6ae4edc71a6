"""Highest scores in plain torch: two stable sorts give every position its rank."""

from __future__ import annotations

import torch
from torch import Tensor


def highest(
    score: Tensor,
    among: Tensor,
    count: Tensor,
    above: Tensor | None,
    inclusive: bool,
    judged: Tensor,
) -> Tensor:
    """Contract: `fastedit.ops.highest`."""
    nan = score != score
    order = score.masked_fill(nan, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    # Scores of -inf tie with what is none: NaN sorts behind them, and behind it what is not among.
    behind = torch.where(among, nan.to(torch.int8), 2).gather(1, order)
    rank = order.gather(1, behind.argsort(dim=-1, stable=True)).argsort(dim=-1)
    chosen = among & (rank < count[:, None])
    if above is None:
        return chosen
    least = above[:, None]
    passing = among & (judged >= least if inclusive else judged > least)
    return torch.where((passing.sum(-1) >= count)[:, None], passing, chosen)
