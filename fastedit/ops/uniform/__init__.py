"""Uniform random numbers that follow from a key and nothing else: the noise of decision rules."""

from __future__ import annotations

import torch
from torch import Tensor

from fastedit.ops import sampling
from fastedit.ops.dispatch import implementation


def uniform(
    seed: Tensor, position: Tensor, forward: Tensor, *, purpose: int, count: int = 1
) -> Tensor:
    """fp32 in [0, 1), `count` per element; with more than one they are a last dimension.

    seed      int64, request seed
    position  int64, absolute position; 32 bits are used
    forward   int64, forward index in the block; 32 bits are used
    purpose   0 to 255: keeps uses apart, see `fastedit.ops.sampling`
    count     at least 1

    The tensors broadcast against each other. Number j of an element comes from the upper 24 bits of
    word j % 4 of Philox4x32-10 under the seed at counter (j // 4, position, forward, purpose): the
    same bits on every back end, and for j = 0 those of `row_stats` and `joint_threshold_step_`.
    Never synchronises. Raises TypeError or ValueError for other dtypes, for devices and shapes
    that do not fit each other, and for a purpose or a count out of range.
    """
    if not (isinstance(count, int) and count >= 1):
        raise ValueError(f"count must be an integer of at least 1, got {count}")
    seed, position, forward = _checked(seed, position, forward, purpose)
    if torch.compiler.is_compiling():
        return sampling.uniform(seed, position, forward, purpose, count)
    return implementation("uniform", seed.device.type)(seed, position, forward, purpose, count)


def random_ids(
    seed: Tensor,
    position: Tensor,
    forward: Tensor,
    *,
    purpose: int,
    vocab: int,
    forbidden: int | None = None,
) -> Tensor:
    """Uniform ids below `vocab`, int64, one per element, never `forbidden`, where that is one.

    They are the numbers of `uniform` times the count of ids that there are to choose from, in fp32
    and rounded down; ids from `forbidden` on are one more. Raises as `uniform`, and ValueError
    where there is no id to choose from.
    """
    skips = forbidden is not None and 0 <= forbidden < vocab
    if vocab - skips < 1:
        raise ValueError(f"vocab={vocab} leaves no id to choose, with forbidden={forbidden}")
    seed, position, forward = _checked(seed, position, forward, purpose)
    serve = implementation("random_ids", seed.device.type)
    return serve(seed, position, forward, purpose, vocab, forbidden if skips else -1)


def _checked(
    seed: Tensor, position: Tensor, forward: Tensor, purpose: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors, of one shape."""
    for name, value in (("seed", seed), ("position", position), ("forward", forward)):
        if value.dtype != torch.int64:
            raise TypeError(f"{name} must be int64, got {value.dtype}")
        if value.device != seed.device:
            raise ValueError(f"{name} is on {value.device}, seed is on {seed.device}")
    sampling.check_purpose(purpose)
    if seed.shape != position.shape or seed.shape != forward.shape:
        shapes = [list(value.shape) for value in (seed, position, forward)]
        try:
            seed, position, forward = torch.broadcast_tensors(seed, position, forward)
        except RuntimeError:
            raise ValueError(f"seed, position and forward do not broadcast: {shapes}") from None
    return seed, position, forward
