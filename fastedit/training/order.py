"""Which row comes when: a pure function of the seed and the place in the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset


class Turn(NamedTuple):
    """A row of the data (numbers of its documents) and the epoch in which it is read."""

    documents: Sequence[int]
    epoch: int


class RunOrder(Dataset):
    """All rows of a run of `steps` batches, in order; item p is the same in every process.

    An epoch is every row once, shuffled, then as many of its first rows again as fill its last
    batch: a batch never mixes epochs, and every batch is full.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], *, batch_size: int, steps: int, seed: int
    ) -> None:
        self.rows, self.seed = rows, seed
        self.total = steps * batch_size
        self.per_epoch = -(-len(rows) // batch_size) * batch_size
        self._shuffled = lru_cache(maxsize=1)(self._shuffle)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, place: int) -> Turn:
        if not 0 <= place < self.total:
            raise IndexError(place)
        epoch, within = divmod(place, self.per_epoch)
        return Turn(self.rows[self._shuffled(epoch)[within % len(self.rows)]], epoch)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
