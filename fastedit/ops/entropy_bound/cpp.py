"""DiffusionGemma's decision step in C++."""

from __future__ import annotations

from torch import Tensor

from fastedit.ops.blocks import Blocks
from fastedit.ops.library import take_step
from fastedit.ops.sampling import DECODE, NOISE, Sampling


def entropy_bound_step_(
    blocks: Blocks,
    logits: Tensor,
    best: Tensor,
    stable: Tensor,
    *,
    settings: tuple[Tensor, ...],
    sampling: Sampling,
    forbid: tuple[int, ...],
) -> None:
    """Contract: `fastedit.ops.entropy_bound_step_`."""
    keys = (sampling.seed, sampling.start, sampling.top_k, sampling.top_p)
    take_step(
        "fe_entropy_bound_step",
        blocks,
        logits,
        forbid,
        read=(*settings, *keys),
        numbers=(DECODE, NOISE),
        written=(best, stable),
    )
