"""What a step did, as the host reads it: at once, or later from a copy made meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastedit.engine.traced import unpacked


class Counts(NamedTuple):
    """What happened in a block so far; the rows of `policies.State.counts`."""

    forwards: int
    m2t_commits: int
    t2t_edits: int
    remasks: int
    inserts: int
    deletes: int


class Record:
    """What one decision did to the blocks of `requests`, which may be fewer than its rows.

    done, dirty, bad, capped, reopened  per row, as in `policies.State`
    ids                       [n, L], maybe a view that holds until the slots change
    logits                    [n, L, V], or of each row those that it had positions for; None where
                              they are gone
    lengths                   how many of the L positions there are; None: all
    moves                     [3, n, L] as in `policies.State`, or None
    planes                    [8, n, L] as `traced.PLANES` says; None unless the step is traced
    """

    def __init__(
        self,
        step: int,
        requests: Sequence[Any],
        ids: Tensor,
        flags: list[list[bool]],
        counts: list[list[int]] | Tensor,
        logits: Tensor | Sequence[Tensor] | None,
        moves: Tensor | None,
        lengths: list[int] | None = None,
        planes: Tensor | None = None,
    ) -> None:
        self.step, self.requests, self.ids, self.logits = step, requests, ids, logits
        self.moves, self.lengths, self.planes = moves, lengths, planes
        self.done, self.dirty, self.bad, self.capped, self.reopened = flags
        self._counts = counts

    def row(self, row: int) -> Tensor:
        """Its ids, [L] or as many as there are."""
        return self.ids[row] if self.lengths is None else self.ids[row][: self.lengths[row]]

    def counts(self, row: int) -> Counts:
        if isinstance(self._counts, Tensor):  # read where a block ends, not in every step
            self._counts = self._counts.tolist()
        return Counts(*(column[row] for column in self._counts))


class Copy:
    """A record under way to the host, in the order of the device's work."""

    def __init__(
        self,
        step: int,
        requests: Sequence[Any],
        packed: Tensor,
        logits: Tensor | None,
        widths: Sequence[int],
        traced: bool = False,
    ) -> None:
        """widths: how many rows of `packed` are ids and, where there are any, moves and planes."""
        self.widths, self.traced = widths, traced
        self.step, self.requests, self.logits = step, requests, logits
        on_gpu = packed.is_cuda  # elsewhere no event could tell when a copy has arrived
        self.copy = torch.empty_like(packed, device="cpu", pin_memory=on_gpu)
        self.copy.copy_(packed, non_blocking=on_gpu)
        self.copied = None
        if on_gpu:
            self.copied = torch.cuda.Event()
            self.copied.record()

    def read(self) -> Record:
        """Waits until it has arrived."""
        if self.copied is not None:
            self.copied.synchronize()
        flags, counts, ids, *moves = self.copy.split((5, 6, *self.widths))
        planes = unpacked(moves.pop()) if self.traced else None
        return Record(
            self.step,
            self.requests,
            ids.t(),
            flags.tolist(),
            counts.tolist(),
            self.logits,
            moves[0].unflatten(0, (3, -1)).mT if moves else None,
            planes=planes,
        )
