"""Sampling: what a draw depends on, and the counter-based random words behind it.

A draw of decoding is keyed by (request seed, absolute position, forward index in the block,
purpose), one of training by (run seed, epoch, global example index, position, turn, purpose). A
place in the batch is never among these: the same draws alone and in any company.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# The purpose keeps the random words of different uses apart.
DRAFT = 0
DECODE = 3
NOISE = 4  # ids that a rule draws without looking at logits
CHANCE = 5  # whether a rule changes a position

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Sampling:
    """How the rows of a batch of blocks draw; every tensor is on the logits' device.

    temperature  [B] fp32   finite; 0 = greedy, then the other fields of that row have no effect
    top_k        [B] int64  keep logits not below the k-th largest (ties stay); 0 = off
    top_p        [B] fp32   drop tokens whose preceding cumulative mass exceeds it; 1 = off
    seed         [B] int64  request seed
    start        [B] int64  absolute position of the block's first token
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seed: Tensor
    start: Tensor

    def fields(self) -> tuple[Tensor, ...]:
        return (self.temperature, self.top_k, self.top_p, self.seed, self.start)


@dataclass(frozen=True)
class RowDraws:
    """One draw for each of R rows of logits; every tensor is on the logits' device.

    seed      int64  request seed
    position  int64  absolute position of the row
    forward   int64  forward index in the block
    top_k     int64  keep logits not below the k-th largest (ties stay); 0 = off
    top_p     fp32   drop tokens whose preceding cumulative mass exceeds it; 1 = off
    purpose   0 to 255

    Tensors are [R], or [B, L] beside logits [B, L, V]; strides are free, so expanded ones serve.

    Raises ValueError for a purpose out of range.
    """

    seed: Tensor
    position: Tensor
    forward: Tensor
    top_k: Tensor
    top_p: Tensor
    purpose: int = DECODE

    def __post_init__(self) -> None:
        check_purpose(self.purpose)

    def fields(self) -> tuple[Tensor, ...]:
        return (self.seed, self.position, self.forward, self.top_k, self.top_p)

    def flat(self) -> RowDraws:
        """The same draws with tensors [R]."""
        seed, position, forward, top_k, top_p = (field.reshape(-1) for field in self.fields())
        return RowDraws(seed, position, forward, top_k, top_p, self.purpose)


def check_purpose(purpose: int) -> None:
    if not 0 <= purpose < 256:
        raise ValueError(f"purpose must be from 0 to 255, got {purpose}")


def uniform(
    seed: Tensor, position: Tensor, forward: Tensor, purpose: int, count: int = 1
) -> Tensor:
    """`fastedit.ops.uniform` in plain torch, of tensors that broadcast against each other."""
    seed, position, forward = torch.broadcast_tensors(seed, position, forward)
    words: list[Tensor] = []
    while len(words) < count:
        words += philox(
            seed, torch.full_like(position, len(words) // 4), position, forward, purpose
        )
    return unit(words[0] if count == 1 else torch.stack(words[:count], dim=-1))


def unit(word: Tensor) -> Tensor:
    """fp32 in [0, 1) from the upper 24 bits of a random word."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def example_words(
    seed: int, epoch: int, example: Tensor, position: Tensor, turn: int, purpose: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random words per element of `example` and `position` (int64), for draws of training.

    48 bits of example, 32 of position, 16 of epoch, 24 of turn and 8 of purpose are told apart.
    """
    high = (epoch << 16) | ((example >> 32) & 0xFFFF)
    return philox(torch.full_like(example, seed), example, position, high, (turn << 8) | purpose)


def philox(
    seed: Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of Philox4x32-10 as int64 in [0, 2^32); int64 arithmetic only.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); the key and
    counter layout is that of `tl.philox(seed, c0, c1, c2, c3)`.
    """
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    w0, w1, w2 = c0 & _LOW, c1 & _LOW, c2 & _LOW
    w3 = torch.full_like(w0, c3)
    for _ in range(10):
        h0, l0 = _mulhilo(_M0, w0)
        h1, l1 = _mulhilo(_M1, w2)
        w0, w1, w2, w3 = h1 ^ w1 ^ k0, l1, h0 ^ w3 ^ k1, l0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return w0, w1, w2, w3


def _mulhilo(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b without leaving int64: b is split into 16-bit halves."""
    low = a * (b & 0xFFFF)
    mid = a * (b >> 16) + (low >> 16)
    return mid >> 16, ((mid & 0xFFFF) << 16) | (low & 0xFFFF)
