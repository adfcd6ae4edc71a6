"""What a budget allows, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.plain import running_sums


def within_budget(cost: Tensor, among: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
    """Contract: `fastedit.ops.within_budget`."""
    among = among & cost.isfinite()
    ranked, order = cost.masked_fill(~among, torch.inf).sort(dim=-1, stable=True)
    ranked = ranked.masked_fill(ranked == torch.inf, 0.0)
    sums = running_sums(ranked)
    taken = torch.empty_like(among).scatter_(1, order, sums - ranked <= budget[:, None])
    return taken & among, sums[:, -1:].sum(-1)  # 0 where there is no position
