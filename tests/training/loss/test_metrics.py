"""Each metric by its definition, on rows where all of them differ."""

from __future__ import annotations

import math

import torch

from fastedit.training.loss.metrics import (
    BUCKETS,
    MASKED,
    RIGHT,
    WRONG,
    by_rate,
    draft_error_rates,
    kinds_of,
    no_tally,
    rates,
    tally,
)

MASK = 9
# held, clean, argmax, p
ROWS = [
    (MASK, 1, 1, 0.9),  # masked, right
    (MASK, 2, 3, 0.9),  # masked, wrong
    (MASK, 2, 2, 0.2),  # masked, right
    (4, 1, 1, 0.6),  # wrong, repaired for sure
    (4, 1, 1, 0.4),  # wrong, repaired, not sure
    (4, 1, 5, 0.8),  # wrong, detected, not repaired
    (4, 1, 4, 0.9),  # wrong, kept
    (4, 2, 2, 0.5),  # wrong, repaired, exactly at the threshold: not above it
    (6, 6, 6, 0.9),  # right, kept
    (6, 6, 7, 0.7),  # right, broken for sure
    (6, 6, 7, 0.3),  # right, broken, not sure
]


def table():
    held, clean, argmax, prob = (torch.tensor(column) for column in zip(*ROWS, strict=True))
    return kinds_of(held, clean, MASK), held, clean, argmax, prob


def test_kinds():
    assert table()[0].tolist() == [MASKED] * 3 + [WRONG] * 5 + [RIGHT] * 3


def test_metrics_by_their_definitions():
    found = rates(tally(*table(), tau=0.5))
    expected = {
        "masked_accuracy": 2 / 3,
        "edit_accuracy": 3 / 5,
        "edit_accuracy_tau": 1 / 5,
        "detect_rate": 4 / 5,
        "false_edit_rate": 2 / 3,
        "false_edit_rate_tau": 1 / 3,
        "net_repair": (1 - 1) / 8,
    }
    assert found == expected
    lower = rates(tally(*table(), tau=0.35))
    assert lower["edit_accuracy_tau"] == 3 / 5 and lower["net_repair"] == (3 - 1) / 8


def test_counts_add_up_and_nothing_is_not_a_rate():
    kind, *rest = table()
    parts = [
        tally(kind[rows], *(r[rows] for r in rest), tau=0.5) for rows in (slice(4), slice(4, None))
    ]
    whole = tally(kind, *rest, tau=0.5)
    for one, other, both in zip(*parts, whole, strict=True):
        assert torch.equal(one + other, both)
    assert no_tally(kind).counts.tolist() == [3, 5, 3] and not no_tally(kind).hits.any()
    assert math.isnan(rates(no_tally(kind[:3]))["edit_accuracy"])


def test_draft_errors_by_rate():
    rate = torch.tensor([0.05, 0.35, 0.39, 0.999, 1.0, 0.35])
    drafted = by_rate(rate, torch.tensor([True, True, True, True, True, False]))
    assert drafted.tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 2] and len(drafted) == BUCKETS
    errors = by_rate(rate, torch.tensor([False, True, False, True, True, False]))
    assert draft_error_rates(drafted, errors) == {
        "draft_error_rate": 3 / 5,
        "draft_error_rate_t0.0": 0.0,
        "draft_error_rate_t0.3": 1 / 2,
        "draft_error_rate_t0.9": 1.0,
    }
