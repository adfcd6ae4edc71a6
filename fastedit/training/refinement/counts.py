"""What both heads make of the labels of a step, as counts that add up, and their rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastedit.ops.edit_labels import UNLABELLED
from fastedit.training.control import ControlTokens
from fastedit.training.loss.metrics import RIGHT, WRONG
from fastedit.training.loss.operations import (
    FILL,
    INSERT,
    KEEP,
    OPERATIONS,
    report_operations,
    share,
    tally_choices,
    tally_operations,
)

# Numbers in `counted`: operations, labels of both heads, rows and steps.
SEEN = OPERATIONS + 2 * 5 + 3


class RefinementOutput(NamedTuple):
    """Sums over a batch; they add up over batches and ranks.

    loss    fp32 []   (mean loss of the first head + that of the second) / t, summed over rows
    labels  int64 []  rows, of which the loss of a step is the mean
    seen    fp64 [SEEN]  see `counts`
    """

    loss: Tensor
    labels: Tensor
    seen: Tensor

    @property
    def judged(self) -> None:
        """Nothing that a validation would look at as a whole."""


class Judged(NamedTuple):
    """What a head makes of n labels.

    token   int64 [n]  its argmax
    label   int64 [n]
    held    int64 [n]  what stands there: the token; of a gap, the label of the token behind it
    edited  bool [n]   whether it is of the edit stage
    prob, of_label  fp32 [n]  probability of the argmax, and of the label
    """

    token: Tensor
    label: Tensor
    held: Tensor
    edited: Tensor
    prob: Tensor
    of_label: Tensor

    def of_edits(self, tau: float, held_not: int = UNLABELLED) -> tuple[Tensor, ...]:
        """Argmax, label, what is held, and whether the argmax has a p above tau; [m] each."""
        rows = self.edited & (self.held != held_not)
        return self.token[rows], self.label[rows], self.held[rows], self.prob[rows] > tau

    def numbers(self) -> Tensor:
        """Labels, hits and nats of the mask stage, labels and nats of the edit stage; fp64 [5]."""
        nats, hit = -self.of_label.double().clamp(min=1e-38).log(), self.token == self.label
        masks, edits = ~self.edited, self.edited
        each = masks, masks & hit, nats * masks, edits, nats * edits
        return torch.stack([part.double().sum() for part in each])


def operations(tokens: Judged, gaps: Judged, tau: float, delete_token_id: int) -> Tensor:
    """`tally_choices` over the rows of the edit stage: of tokens, and of gaps inserts alone."""
    token, label, held, sure = tokens.of_edits(tau)
    kind, control = torch.where(label == held, RIGHT, WRONG), ControlTokens(delete_token_id)
    of_tokens = tally_operations(kind, held, label, token, sure, control)
    # Before a token that is deleted nothing is inserted, whatever the second head says.
    token, label, held, sure = gaps.of_edits(tau, held_not=delete_token_id)
    wanted, chosen = (torch.where(each == held, KEEP, INSERT) for each in (label, token))
    of_tokens[:, INSERT] = tally_choices(wanted, chosen, token == label, sure)[:, INSERT]
    return of_tokens.flatten()


def drafted_rows(seen: Sequence[float]) -> tuple[float, float]:
    """Rows of the edit stage, and labels of the first head for them, in summed counts."""
    return seen[-2], seen[OPERATIONS + 3]


def report(seen: Sequence[float]) -> dict[str, float | None]:
    """Of summed counts, what `report_operations` says of drafts, and beside it:

    | name | |
    |---|---|
    | edit_accuracy | share of what is to be replaced, deleted or inserted that is |
    | false_edit_rate | share of the tokens to be kept where argmax is something else |
    | masked_accuracy, next_accuracy | mask stage: labels that the first, the second head hits |
    | masked_loss, masked_next_loss | of both heads in the mask stage, nats per label |
    | edit_loss, edit_next_loss | of both heads in the edit stage |
    | edited_rows | share of the rows that are in the edit stage |
    | edit_steps | forwards that edited a draft at most, mean over its rows |
    """
    of_edits, rest = seen[:OPERATIONS], seen[OPERATIONS:]
    first, second, (masked, edited, steps) = rest[:5], rest[5:10], rest[10:]
    wanted, right, *_ = torch.tensor(of_edits).view(-1, FILL).tolist()
    return {
        "edit_accuracy": share(sum(right[1:]), sum(wanted[1:])),
        "false_edit_rate": share(wanted[KEEP] - right[KEEP], wanted[KEEP]),
        **report_operations(of_edits),
        "masked_accuracy": share(first[1], first[0]),
        "next_accuracy": share(second[1], second[0]),
        "masked_loss": share(first[2], first[0]),
        "masked_next_loss": share(second[2], second[0]),
        "edit_loss": share(first[4], first[3]),
        "edit_next_loss": share(second[4], second[3]),
        "edited_rows": share(edited, masked + edited),
        "edit_steps": share(steps, edited),
    }
