"""What rules share: ranks among the positions of a block, and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops.sampling import NOISE, uniform


def highest(score: Tensor, among: Tensor, count: Tensor | int) -> Tensor:
    """The `count` highest scores among these positions, lowest position on ties, bool [n, L].

    score: fp32 [n, L]; among: bool [n, L]; count: one number, or [n]. Fewer where there are fewer.
    """
    order = score.masked_fill(~among, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    # Positions that are not among them rank with a score of -inf, which others may have too.
    if isinstance(count, Tensor):
        count = count[:, None]
    return among & (rank < count)


def at_least(chosen: Tensor, score: Tensor, among: Tensor, least: Tensor) -> Tensor:
    """`chosen` [n, L] in blocks where it has `least` [n] positions, else the highest of `among`."""
    enough = chosen.sum(-1) >= least
    return torch.where(enough[:, None], chosen, highest(score, among, least))


def random_ids(
    seed: Tensor, start: Tensor, length: int, forward: Tensor, vocab: int, forbidden: int | None
) -> Tensor:
    """Uniform random ids, int64 [n, length], never `forbidden`.

    seed, start, forward: int64 [n]; a position's id depends on them and the position alone.
    """
    position = start[:, None] + torch.arange(length, device=start.device)
    number = uniform(seed[:, None], position, forward[:, None].long(), NOISE)
    if forbidden is None or not 0 <= forbidden < vocab:
        return (number * vocab).long().clamp_(max=vocab - 1)
    ids = (number * (vocab - 1)).long().clamp_(max=vocab - 2)
    return ids + (ids >= forbidden)
