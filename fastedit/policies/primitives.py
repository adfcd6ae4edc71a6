"""What rules share: the best positions of a block, chances and noise."""

from __future__ import annotations

from torch import Tensor

from fastedit import ops
from fastedit.ops import highest, within_budget
from fastedit.ops.plain import running_sums
from fastedit.ops.sampling import CHANCE, NOISE
from fastedit.policies.base import View

__all__ = ["chances", "highest", "random_ids", "running_sums", "within_budget"]


def chances(view: View) -> Tensor:
    """A uniform number in [0, 1) for every position of this forward, fp32 [n, length]."""
    seed, forward = view.sampling.seed[:, None], view.counts.forwards[:, None].long()
    return ops.uniform(seed, view.positions(), forward, purpose=CHANCE)


def random_ids(view: View, forward: Tensor, vocab: int, forbidden: int | None) -> Tensor:
    """Uniform random ids, int64 [n, length], never `forbidden`.

    forward: integers [n]; a position's id depends on it, on the seed and on the position alone.
    """
    return ops.random_ids(
        view.sampling.seed[:, None],
        view.positions(),
        forward[:, None].long(),
        vocab=vocab,
        forbidden=forbidden,
        purpose=NOISE,
    )
