"""Uniform random numbers in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import check, load

_ARGUMENTS = Struct("3P3qP")  # fe_uniform_args


def uniform(seed: Tensor, position: Tensor, forward: Tensor, purpose: int, count: int) -> Tensor:
    """Contract: `fastedit.ops.uniform`; the tensors have one shape."""
    dense = [value.contiguous() for value in (seed, position, forward)]  # alive until the end
    shape = seed.shape if count == 1 else (*seed.shape, count)
    out = seed.new_empty(shape, dtype=torch.float32)
    arguments = _ARGUMENTS.pack(
        *map(Tensor.data_ptr, dense), seed.numel(), purpose, count, out.data_ptr()
    )
    check(load().fe_uniform(arguments))
    return out
