"""Random numbers of training: functions of (seed, epoch, example, position, turn, purpose) alone.

The same corruption of an example for any batch, packing, number of workers and world size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastedit.ops import DraftKey
from fastedit.ops.sampling import example_words, unit

# Purposes keep the words of different uses apart; 0 and 3 are those of drafts and decoding.
MASK, EDIT, RATE, SAMPLE, ORDER = 1, 2, 4, 5, 6


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch of rows.

    example   [B, L] int64  global index of the document each token belongs to, -1: padding
    position  [B, L] int64  position within the document
    """

    seed: int
    epoch: int
    example: Tensor
    position: Tensor

    def words(self, purpose: int, turn: int) -> tuple[Tensor, ...]:
        """Four independent 32-bit words per token, int64 [B, L]."""
        return self._words(self.position, purpose, turn)

    def per_token(self, purpose: int, turn: int) -> Tensor:
        """Uniform [0, 1) per token, fp32 [B, L]."""
        return unit(self._words(self.position, purpose, turn)[0])

    def per_block(self, purpose: int, turn: int, block_size: int) -> tuple[Tensor, Tensor]:
        """Two independent uniforms [0, 1), the same for the tokens of a block; documents begin at
        a block."""
        first = self.position.div(block_size, rounding_mode="floor") * block_size
        words = self._words(first, purpose, turn)
        return unit(words[0]), unit(words[1])

    def per_document(self, purpose: int, turn: int) -> tuple[Tensor, Tensor]:
        """Two independent uniforms [0, 1), the same for all tokens of a document."""
        words = self._words(torch.zeros_like(self.position), purpose, turn)
        return unit(words[0]), unit(words[1])

    def draft_key(self, where: Tensor, turn: int) -> DraftKey:
        """Key of the drafts at the True positions of `where` [B, L]."""
        return DraftKey(self.seed, self.epoch, self.example[where], self.position[where], turn)

    def _words(self, position: Tensor, purpose: int, turn: int) -> tuple[Tensor, ...]:
        return example_words(self.seed, self.epoch, self.example, position, turn, purpose)
