"""What a step did, as the host reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

# Of every position, as fp32, in which ids below 2**24 are exact: what it held before, and had
# written to it before tokens moved; the probability of both; that of the token that the rule would
# write; entropy and score where the policy has them; and the probability at which a token was put
# before it. NaN: not known.
PLANES = ("old", "written", "p_old", "p_new", "confidence", "entropy", "score", "p_inserted")


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
    planes                    [8, n, L] as `PLANES` says; None unless the step is traced
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
