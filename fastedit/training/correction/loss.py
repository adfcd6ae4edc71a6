"""Binary cross entropy of error logits. The weight of errors follows from a whole optimiser step,
so it is the same however the step is split into micro-batches and processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastedit.training.correction.options import CorrectionOptions


def error_weight(counts: Tensor, options: CorrectionOptions) -> tuple[Tensor, Tensor]:
    """Weight of errors, and what the weighted sum is divided by; both fp64 [].

    counts  int64 [2]  judged positions of a step: right ones, wrong ones

    A step without an error has nothing to weigh, and a divisor of at least 1.
    """
    right, wrong = counts.double()
    ratio = right / wrong.clamp(min=1)
    weight, divisor = torch.ones_like(ratio), right + wrong
    if options.weighting == "clamped":
        weight = ratio.clamp(1.0, options.max_error_weight)
    elif options.weighting == "balanced":
        weight, divisor = ratio, right + ratio * wrong
    return weight, divisor.clamp(min=1)


def weighted_sum(logits: Tensor, errors: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """sum_i w_i * BCE_i of error logits [N] and bool errors [N], where w_i is `weight` of an error
    and 1 elsewhere; fp32 []."""
    each = F.binary_cross_entropy_with_logits(logits, errors.to(logits), reduction="none")
    return (each * torch.where(errors, weight, 1.0)).sum()
