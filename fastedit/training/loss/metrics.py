"""What a training step saw: counts that add up over batches and ranks, and their rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MASKED, WRONG, RIGHT = 0, 1, 2  # what a supervised position holds
BUCKETS = 10  # of the mask rate t: [0, .1), [.1, .2), ...
SEEN = 5 * 3 + 2 * BUCKETS  # numbers in `StepOutput.seen`


class Tally(NamedTuple):
    """Counts over supervised positions, each int64 [3]: masked, wrong and right visible ones.

    counts      how many there are
    hits        argmax is the clean id
    moves       argmax is not the id that is there
    sure_hits   hits with a probability above the editing threshold
    sure_moves  moves with such a probability: a decoder would make them
    """

    counts: Tensor
    hits: Tensor
    moves: Tensor
    sure_hits: Tensor
    sure_moves: Tensor


def kinds_of(ids: Tensor, clean: Tensor, mask_token_id: int) -> Tensor:
    """MASKED, WRONG or RIGHT for noisy `ids` beside `clean` ones; any shape."""
    visible = torch.where(ids == clean, RIGHT, WRONG)
    return visible.masked_fill(ids == mask_token_id, MASKED)


def tally(
    kind: Tensor, current: Tensor, labels: Tensor, token: Tensor, prob: Tensor, tau: float
) -> Tally:
    """Counts of supervised rows, all arguments [N]: kind, id held, clean id, argmax and its p."""
    hit, move, sure = token == labels, token != current, prob > tau
    each = torch.ones_like(hit), hit, move, hit & sure, move & sure
    return Tally(*(torch.bincount(kind[rows], minlength=3) for rows in each))


def no_tally(kind: Tensor) -> Tally:
    """Only how many supervised rows of each kind [N] there are; nothing was predicted."""
    counts = torch.bincount(kind, minlength=3)
    return Tally(counts, *(torch.zeros_like(counts) for _ in range(4)))


def by_rate(rate: Tensor, rows: Tensor) -> Tensor:
    """How many of `rows` (bool) lie in each bucket of the mask rate t, int64 [BUCKETS]."""
    bucket = (rate[rows] * BUCKETS).long().clamp(max=BUCKETS - 1)
    return torch.bincount(bucket, minlength=BUCKETS)


def rates(counted: Tally) -> dict[str, float]:
    """The metrics of a training log; NaN where nothing was counted.

    | name | share of | with |
    |---|---|---|
    | masked_accuracy | masked positions | argmax = clean id |
    | edit_accuracy | visible wrong ones | argmax = clean id; _tau: and p > tau |
    | detect_rate | visible wrong ones | argmax is another id than the one there |
    | false_edit_rate | visible right ones | argmax is another id; _tau: and p > tau |
    | net_repair | visible ones | repaired less broken by one edit step at tau |
    """
    counts, hits, moves, sure_hits, sure_moves = (field.tolist() for field in counted)
    visible = counts[WRONG] + counts[RIGHT]
    return {
        "masked_accuracy": _share(hits[MASKED], counts[MASKED]),
        "edit_accuracy": _share(hits[WRONG], counts[WRONG]),
        "edit_accuracy_tau": _share(sure_hits[WRONG], counts[WRONG]),
        "detect_rate": _share(moves[WRONG], counts[WRONG]),
        "false_edit_rate": _share(moves[RIGHT], counts[RIGHT]),
        "false_edit_rate_tau": _share(sure_moves[RIGHT], counts[RIGHT]),
        "net_repair": _share(sure_hits[WRONG] - sure_moves[RIGHT], visible),
    }


def report(seen: Sequence[float]) -> dict[str, float | None]:
    """`rates` and `draft_error_rates` of summed `StepOutput.seen`; None where nothing counted."""
    counted, drafts = torch.tensor(seen).long().split([15, 2 * BUCKETS])
    values = rates(Tally(*counted.view(5, 3))) | draft_error_rates(*drafts.view(2, BUCKETS))
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def draft_error_rates(drafted: Tensor, errors: Tensor) -> dict[str, float]:
    """Share of drafts that are wrong, over all and by bucket of t that has any."""
    total = {"draft_error_rate": _share(int(errors.sum()), int(drafted.sum()))}
    pairs = zip(drafted.tolist(), errors.tolist(), strict=True)
    return total | {
        f"draft_error_rate_t{i / BUCKETS:.1f}": wrong / many
        for i, (many, wrong) in enumerate(pairs)
        if many
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
