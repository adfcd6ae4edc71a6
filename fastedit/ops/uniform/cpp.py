"""Uniform random numbers in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import NUMBERS, check, load, numbers_fields

_ARGUMENTS = Struct(3 * NUMBERS + "4qP")  # fe_uniform_args


def uniform(seed: Tensor, position: Tensor, forward: Tensor, purpose: int, count: int) -> Tensor:
    """Contract: `fastedit.ops.uniform`; the tensors have one shape."""
    shape = seed.shape if count == 1 else (*seed.shape, count)
    out = seed.new_empty(shape, dtype=torch.float32)
    keys = [seed, position, forward]
    if seed.ndim != 2:
        keys = [key.reshape(1, -1) for key in keys]  # alive until the call is over
    blocks, length = keys[0].shape
    arguments = _ARGUMENTS.pack(
        *(field for key in keys for field in numbers_fields(key, length)),
        blocks,
        length,
        purpose,
        count,
        out.data_ptr(),
    )
    check(load().fe_uniform(arguments))
    return out
