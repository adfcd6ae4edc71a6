"""The positions of each block that cost the least, as many as a budget allows."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.dispatch import implementation


def within_budget(cost: Tensor, among: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
    """Where a position is taken, lowest cost first, while the costs before it are within a budget.

    cost    [B, L] fp32, at least 0; ties go to the lowest position; what is not finite is never
            taken, and not in the total
    among   [B, L] bool, the positions to choose from
    budget  [B] fp32: what the costs before a position that is taken add up to at most

    Returns the positions that are taken, bool [B, L], and the total of all costs, fp32 [B]. Sums
    are as exact as the device makes them, and do not depend on other blocks. Never raises for
    values and never synchronises. Raises ValueError for shapes and dtypes that do not fit.
    """
    shape = cost.shape
    if cost.dtype != torch.float32 or cost.ndim != 2:
        raise ValueError(f"cost must be float32 [B, L]; got {cost.dtype} {list(shape)}")
    if among.dtype != torch.bool or among.shape != shape:
        raise ValueError(
            f"among must be bool {list(shape)}, as cost is; got {among.dtype} {list(among.shape)}"
        )
    if budget.dtype != torch.float32 or budget.shape != shape[:1]:
        raise ValueError(
            f"budget must be float32 {list(shape[:1])}; got {budget.dtype} {list(budget.shape)}"
        )
    return implementation("within_budget", cost.device.type)(cost, among, budget)
