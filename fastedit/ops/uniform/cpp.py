"""Uniform random numbers and ids in C++, for tensors on the CPU."""

from __future__ import annotations

from struct import Struct

import torch
from torch import Tensor

from fastedit.ops.library import NUMBERS, check, load, numbers_fields

_UNIFORM = Struct(3 * NUMBERS + "4qP")  # fe_uniform_args
_RANDOM_IDS = Struct(3 * NUMBERS + "5qP")  # fe_random_ids_args


def uniform(seed: Tensor, position: Tensor, forward: Tensor, purpose: int, count: int) -> Tensor:
    """Contract: `fastedit.ops.uniform`; the tensors have one shape."""
    shape = seed.shape if count == 1 else (*seed.shape, count)
    out = seed.new_empty(shape, dtype=torch.float32)
    keys = _as_blocks(seed, position, forward)
    arguments = _UNIFORM.pack(*_fields(keys), *keys[0].shape, purpose, count, out.data_ptr())
    check(load().fe_uniform(arguments))
    return out


def random_ids(
    seed: Tensor, position: Tensor, forward: Tensor, purpose: int, vocab: int, forbidden: int
) -> Tensor:
    """Contract: `fastedit.ops.random_ids`; forbidden: -1 where no id is."""
    out = seed.new_empty(seed.shape)
    keys = _as_blocks(seed, position, forward)
    settings = *keys[0].shape, purpose, vocab, forbidden
    check(load().fe_random_ids(_RANDOM_IDS.pack(*_fields(keys), *settings, out.data_ptr())))
    return out


def _as_blocks(*keys: Tensor) -> tuple[Tensor, ...]:
    """Of two dimensions; to be kept until the call is over."""
    return keys if keys[0].ndim == 2 else tuple(key.reshape(1, -1) for key in keys)


def _fields(keys: tuple[Tensor, ...]) -> list[int]:
    return [field for key in keys for field in numbers_fields(key, key.shape[1])]
