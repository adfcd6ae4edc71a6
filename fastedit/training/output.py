"""What a step returns: sums that add up over copies, batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.training.loss.metrics import Tally


class StepOutput(NamedTuple):
    """Sums over the supervised positions of a batch; they add up over batches and ranks.

    loss     fp32 []     weighted losses with gradient; divide by the labels of the whole step
    labels   int64 []    denominator of this batch
    tally                counts of `metrics.Tally`
    drafted  int64 [10]  drafts, by bucket of the mask rate
    errors   int64 [10]  those that were wrong
    operations  int64 [7, 4]  counts of `operations.tally_operations`; None: no edits were counted
    """

    loss: Tensor
    labels: Tensor
    tally: Tally
    drafted: Tensor
    errors: Tensor
    operations: Tensor | None = None

    @property
    def hits(self) -> Tensor:
        """Right argmaxes among masked, wrong and right visible positions, int64 [3]."""
        return self.tally.hits

    @property
    def counts(self) -> Tensor:
        """How many of them there are, int64 [3]."""
        return self.tally.counts

    @property
    def seen(self) -> Tensor:
        """All counts in a row, int64: the [SEEN] of `metrics.report`, then those of operations."""
        counts = [*self.tally, self.drafted, self.errors]
        if self.operations is not None:
            counts.append(self.operations.flatten())
        return torch.cat(counts)

    @property
    def judged(self) -> None:
        """Nothing that a validation would look at as a whole."""


def total(outputs: Sequence[StepOutput]) -> StepOutput:
    """Field by field, the sums over copies and rounds."""
    loss, labels, tallies, drafted, errors, operations = zip(*outputs, strict=True)
    counted = Tally(*(_sum(field) for field in zip(*tallies, strict=True)))
    edits = None if operations[0] is None else _sum(operations)
    return StepOutput(_sum(loss), _sum(labels), counted, _sum(drafted), _sum(errors), edits)


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)
