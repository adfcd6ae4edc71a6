"""What rules share: the best positions of a block, chances and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops import highest, uniform
from fastedit.ops.sampling import CHANCE, NOISE
from fastedit.policies.base import View

__all__ = ["chances", "highest", "random_ids", "running_sums"]


def chances(view: View) -> Tensor:
    """A uniform number in [0, 1) for every position of this forward, fp32 [n, length]."""
    seed, forward = view.sampling.seed[:, None], view.counts.forwards[:, None].long()
    return uniform(seed, view.positions(), forward, purpose=CHANCE)


def random_ids(view: View, forward: Tensor, vocab: int, forbidden: int | None) -> Tensor:
    """Uniform random ids, int64 [n, length], never `forbidden`.

    forward: integers [n]; a position's id depends on it, on the seed and on the position alone.
    """
    seed = view.sampling.seed[:, None]
    number = uniform(seed, view.positions(), forward[:, None].long(), purpose=NOISE)
    if forbidden is None or not 0 <= forbidden < vocab:
        return (number * vocab).long().clamp_(max=vocab - 1)
    ids = (number * (vocab - 1)).long().clamp_(max=vocab - 2)
    return ids + (ids >= forbidden)


def running_sums(values: Tensor) -> Tensor:
    """Inclusive sums along the last dimension, fp32 [n, L], in an order that n does not change."""
    if values.device.type == "cpu":
        return values.cumsum(-1)  # row by row; on a GPU the order depends on the shape
    return doubling_sums(values)


def doubling_sums(values: Tensor) -> Tensor:
    """Inclusive sums by partial sums of 1, 2, 4, ... values, along the last dimension."""
    shift = 1
    while shift < values.shape[-1]:
        values = values + torch.nn.functional.pad(values[:, :-shift], (shift, 0))
        shift *= 2
    return values
