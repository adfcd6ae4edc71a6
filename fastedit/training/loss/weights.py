"""Weights of supervised positions and the denominator of the summed loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.training.loss.metrics import MASKED, RIGHT, WRONG
from fastedit.training.noise.corruption import Noisy
from fastedit.training.noise.ranks import counts_in
from fastedit.training.options import W_MAX, EditOptions


def position_weights(
    noisy: Noisy, kind: Tensor, response: Tensor, example: Tensor, options: EditOptions
) -> Tensor:
    """Weight of every position in the loss, fp32 [B, L]; `kind` as in `metrics.kinds_of`.

    w(t) = 1 or min(1/t, w_max) for masks, lambda_edit for visible wrong ids and lambda_keep for
    right ones. With denominator="sequence" a document's weights are divided by the number of its
    response positions, so that every document counts the same.
    """
    weight = torch.ones_like(noisy.rate)
    if options.mask_weight == "1/t":
        weight = (1.0 / noisy.rate).clamp(max=options.w_max or W_MAX)
    weight = torch.where(kind == WRONG, options.lambda_edit, weight)
    weight = torch.where(kind == RIGHT, options.lambda_keep, weight)
    if options.denominator == "sequence":
        weight = weight / counts_in(response, example).clamp(min=1)
    return weight


def denominator(
    labelled: Tensor, response: Tensor, example: Tensor, options: EditOptions
) -> Tensor:
    """What one supervised pass adds to the denominator, int64 []; see `EditOptions`."""
    if options.denominator == "sequence":
        return torch.tensor(len(example[response].unique()), device=example.device)
    return response.sum() if options.denominator == "maskable" else labelled.sum()


def confident_rows(kind: Tensor, options: EditOptions) -> Tensor:
    """Rows that the confidence loss looks at."""
    return (
        kind == MASKED if options.cap_region == "m2t" else torch.ones_like(kind, dtype=torch.bool)
    )
