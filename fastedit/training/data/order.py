"""Which row comes when: a pure function of the seed and the place in the run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

EPOCHS = 2**16 - 1  # noise has keys for one more, which validation has


class Turn(NamedTuple):
    """A row of the data (numbers of its documents), the epoch in which it is read, and how many
    times that epoch has read it before: each time has its own noise."""

    documents: Sequence[int]
    epoch: int
    repeat: int = 0


class RunOrder(Dataset):
    """All rows of a run of `steps` batches, in order; item p is the same in every process.

    An epoch is every row once, shuffled, then as many of its first rows again as fill its last
    batch: a batch never mixes epochs, and every batch is full. Raises ValueError for more epochs
    than noise has keys for.
    """

    def __init__(
        self, rows: Sequence[Sequence[int]], *, batch_size: int, steps: int, seed: int
    ) -> None:
        self.rows, self.seed = rows, seed
        self.total = steps * batch_size
        self.per_epoch = -(-len(rows) // batch_size) * batch_size
        if self.total > EPOCHS * self.per_epoch:
            raise ValueError(
                f"{steps} steps of {batch_size} rows read {len(rows)} rows more than {EPOCHS:,} "
                "times: take fewer steps or more data"
            )
        self._shuffled = lru_cache(maxsize=1)(self._shuffle)

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, place: int) -> Turn:
        if not 0 <= place < self.total:
            raise IndexError(place)
        epoch, within = divmod(place, self.per_epoch)
        repeat, number = divmod(within, len(self.rows))
        return Turn(self.rows[self._shuffled(epoch)[number]], epoch, repeat)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))
