"""What a budget allows, in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import check, load

_ARGUMENTS = Struct("2q5P")  # fe_within_budget_args


def within_budget(cost: Tensor, among: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
    """Contract: `fastedit.ops.within_budget`."""
    cost, among, budget = cost.contiguous(), among.contiguous(), budget.contiguous()
    taken, total = torch.empty_like(among), torch.empty_like(budget)
    arguments = _ARGUMENTS.pack(
        *cost.shape,
        cost.data_ptr(),
        among.data_ptr(),
        budget.data_ptr(),
        taken.data_ptr(),
        total.data_ptr(),
    )
    check(load().fe_within_budget(arguments))
    return taken, total
