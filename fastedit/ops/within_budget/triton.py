"""What a budget allows, on a GPU: plain torch, whose small kernels a captured step replays."""

from fastedit.ops.within_budget.reference import within_budget as within_budget
