"""Scripted logits: a model without weights, whose logits are hashes of a few neighbouring ids.

All numbers are 32-bit unsigned; a row at position q sees l2 l1 . r1 r2 around it, -1 where nothing
is seen:

    mix(h, a):       h ^= a;  h *= 0x9E3779B1;  h ^= h >> 16;  h *= 0x85EBCA6B;  h ^= h >> 13
    H(tag; a1, ..):  h = mix(seed, tag);  for each a: h = mix(h, a + 1)
    z[t] = H(7; q, t, l1, r1) % 2048                                for every token t
    z[H(1; q, l1) % (V-1)] += 1024 + H(4; q, l2, l1) % gain         a quarter of it if l1 is M or -1
    z[H(2; q, r1) % (V-1)] += H(5; q, r1, r2) % gain                a quarter of it if r1 is M or -1
    z[H(3; q) % (V-1)] += H(6; q, l1, r1) % gain
    z[own id] += keep, unless it is M;  z[M] -= 16384;  logits = z / 1024, exact in fp32
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

_LOW = 0xFFFFFFFF


def mix(h: Tensor, a: Tensor) -> Tensor:
    """int64 tensors of 32-bit values; products wrap, and only their low 32 bits are kept."""
    h = ((h ^ a) * 0x9E3779B1) & _LOW
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _LOW
    return h ^ (h >> 13)


class ScriptedLogits(nn.Module):
    """The model contract over scripted logits. The mask is the last id; nothing is cached.

    calls  input ids of every forward, [B, T] each
    """

    def __init__(self, seed: int, vocab: int, gain: int, keep: int) -> None:
        super().__init__()
        self.seed, self.vocab, self.gain, self.keep = seed, vocab, gain, keep
        self.mask = vocab - 1
        self.config = SimpleNamespace(vocab_size=vocab)
        self.calls: list[Tensor] = []

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: None = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        assert past_key_values is None and not use_cache
        self.calls.append(input_ids.clone())
        rows, width = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(width)
        positions = position_ids.expand(rows, width)
        if attention_mask is None:
            attention_mask = torch.ones(rows, 1, width, width, dtype=torch.bool)
        assert attention_mask.dtype == torch.bool and attention_mask.dim() == 4
        seen = attention_mask[:, 0].expand(rows, width, width)
        around = [neighbours(input_ids, positions, seen, step) for step in (-2, -1, 1, 2)]
        return SimpleNamespace(logits=self.scores(input_ids, positions, *around).float() / 1024)

    def scores(
        self, own: Tensor, q: Tensor, l2: Tensor, l1: Tensor, r1: Tensor, r2: Tensor
    ) -> Tensor:
        """z [B, T, V] of rows [B, T], int64."""
        tokens = torch.arange(self.vocab)
        z = self._hash(7, q[..., None], tokens, l1[..., None], r1[..., None]) % 2048
        left = 1024 + self._hash(4, q, l2, l1) % self.gain
        right = self._hash(5, q, r1, r2) % self.gain
        both = self._hash(6, q, l1, r1) % self.gain
        for token, weight in (
            (self._hash(1, q, l1), torch.where(self._absent(l1), left // 4, left)),
            (self._hash(2, q, r1), torch.where(self._absent(r1), right // 4, right)),
            (self._hash(3, q), both),
        ):
            z.scatter_add_(-1, (token % (self.vocab - 1))[..., None], weight[..., None])
        keep = torch.where(own == self.mask, 0, self.keep)
        z.scatter_add_(-1, own[..., None], keep[..., None])
        z[..., self.mask] -= 16384
        return z

    def _hash(self, tag: int, *values: Tensor) -> Tensor:
        h = mix(torch.tensor(self.seed), torch.tensor(tag))
        for value in values:
            h = mix(h, value + 1)
        return h

    def _absent(self, ids: Tensor) -> Tensor:
        return (ids == self.mask) | (ids == -1)


def neighbours(ids: Tensor, positions: Tensor, seen: Tensor, step: int) -> Tensor:
    """[B, T]: what each row sees `step` positions away, -1 where it sees nothing.

    seen [B, T, T]. Several rows may stand at one position, as shadow rows do: the first is real.
    """
    there = seen & (positions[:, None, :] == positions[:, :, None] + step)
    found = ids.gather(1, there.int().argmax(-1))
    return torch.where(there.any(-1), found, -1)
