"""Uniform random numbers and ids in plain torch, on any device."""

from torch import Tensor

from fastedit.ops.sampling import uniform as uniform


def random_ids(
    seed: Tensor, position: Tensor, forward: Tensor, purpose: int, vocab: int, forbidden: int
) -> Tensor:
    """Contract: `fastedit.ops.random_ids`; forbidden: -1 where no id is."""
    number = uniform(seed, position, forward, purpose)
    if forbidden < 0:
        return (number * vocab).long().clamp_(max=vocab - 1)
    ids = (number * (vocab - 1)).long().clamp_(max=vocab - 2)
    return ids + (ids >= forbidden)
