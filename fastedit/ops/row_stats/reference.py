"""Row statistics in plain torch: what the other back ends must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.plain import LARGEST, ban_, finite, probability_of, row_sum
from fastedit.ops.row_stats import RowStats


def row_stats(
    logits: Tensor, current: Tensor, *, forbid: tuple[int, ...], temperature: float, entropy: bool
) -> RowStats:
    """Contract: `fastedit.ops.row_stats`."""
    scores, bad = finite(logits)
    top = scores.amax(-1)
    # Relative to the best, so that a small temperature makes no ties by overflow.
    weights = ((scores - top.clamp(min=-LARGEST)[:, None]) / temperature).exp()
    total = row_sum(weights)
    probs = weights / total[:, None]  # bit for bit what the decision step compares
    scaled = (top / temperature).clamp(-LARGEST, LARGEST)
    lse = torch.where(top == -torch.inf, top, scaled + total.log())
    token, prob, exists = _choose(scores, probs, current, forbid)
    return RowStats(
        token=token,
        prob=prob,
        prob_current=probability_of(probs, current),
        lse=lse,
        entropy=row_sum(torch.special.entr(probs.nan_to_num(nan=0.0))) if entropy else None,
        bad=bad | ~exists,
    )


def _choose(
    scores: Tensor, probs: Tensor, current: Tensor, forbid: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Best allowed token, its probability, and whether there is one. Overwrites `scores`."""
    best, token = ban_(scores, forbid).max(-1)
    exists = best > -torch.inf
    token = torch.where(exists, token, current)
    return token, torch.where(exists, probability_of(probs, token), 0.0), exists
