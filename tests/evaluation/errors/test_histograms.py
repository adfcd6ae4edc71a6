"""Every count on a table that can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastedit.evaluation.errors.histograms import confidence, histograms, runs
from fastedit.evaluation.errors.rules import KINDS
from fastedit.evaluation.errors.written import Written, nearest_visible

# sample, group, position, relative, distance, p, wrong, kind
ROWS = [
    (0, 0, 5, 0.00, 1, 0.90, True, 1),
    (0, 0, 6, 0.10, 2, 0.60, True, 1),  # runs on
    (0, 0, 7, 0.20, 5, 0.97, False, -1),
    (0, 0, 8, 0.99, 8, 0.05, True, 6),
    (0, 1, 9, 0.50, 17, 0.70, True, 6),  # the next position, but another pass
    (2, 1, 9, 0.50, 16, 1.00, True, 0),  # the same place, but another sample
    (2, 1, 9, 0.50, 16, 0.50, True, 0),  # wrong twice
    (2, 1, 10, 0.55, 0, 0.10, True, 2),
    (2, 1, 13, 0.60, 1, 0.20, False, -1),
]
TABLE = Written.of_columns(*zip(*ROWS, strict=True))
NOTHING = TABLE.where(np.zeros(len(ROWS), dtype=bool))


def counted(histogram) -> list[dict[str, int]]:
    """Per sample the bins that are not empty."""
    return [
        {name: int(n) for name, n in zip(histogram.bins, row, strict=True) if n}
        for row in histogram.counts
    ]


def test_histograms_by_hand():
    found = {name: counted(h) for name, h in histograms(TABLE, 3, block_size=4).items()}
    assert found == {
        "position in block": [{"0": 1, "1": 2, "2": 1}, {}, {"1": 2, "2": 1}],
        "position in response": [{"0.00": 1, "0.10": 1, "0.50": 1, "0.90": 1}, {}, {"0.50": 3}],
        "distance to visible": [
            {"1": 1, "2": 1, "5-8": 1, "17+": 1},
            {},
            {"9-16": 2, "none": 1},
        ],
        "run length": [{"1": 2, "2": 1}, {}, {"2": 1}],
        "confidence on errors": [
            {"0.05": 1, "0.60": 1, "0.70": 1, "0.90": 1},
            {},
            {"0.10": 1, "0.50": 1, "0.95": 1},
        ],
        "confidence elsewhere": [{"0.95": 1}, {}, {"0.20": 1}],
        "kinds": [{KINDS[1]: 2, KINDS[6]: 2}, {}, {KINDS[0]: 2, KINDS[2]: 1}],
    }


@pytest.mark.parametrize(("block_size", "bins"), [(4, 4), (32, 32)])
def test_bins(block_size, bins):
    found = histograms(TABLE, 3, block_size)
    sizes = [len(histogram.bins) for histogram in found.values()]
    assert sizes == [bins, 10, 8, 6, 20, 20, 7]
    assert all(h.counts.shape == (3, len(h.bins)) for h in found.values())


def test_nothing_is_counted_as_nothing():
    assert not any(h.counts.any() for h in histograms(NOTHING, 3, 4).values())
    assert [len(part) for part in runs(NOTHING)] == [0, 0]
    assert all(math.isnan(value) for value in confidence(NOTHING).values())


@pytest.mark.parametrize(("length", "name"), [(4, "4"), (5, "5-8"), (8, "5-8"), (9, "9+")])
def test_long_runs(length, name):
    rows = [(0, 0, 3 + i, 0.0, 1, 0.5, True, 6) for i in range(length)]
    table = Written.of_columns(*zip(*rows, strict=True))
    assert counted(histograms(table, 1, 4)["run length"]) == [{name: 1}]


def test_confidence_by_hand():
    found = confidence(TABLE)
    on = sorted([0.9, 0.6, 0.05, 0.7, 1.0, 0.5, 0.1])
    assert found["median on errors"] == on[3]
    assert found["median elsewhere"] == pytest.approx((0.97 + 0.2) / 2)
    assert found["errors above 0.5"] == pytest.approx(4 / 7)  # not 0.5 itself
    assert found["errors above 0.7"] == pytest.approx(2 / 7)
    # One right token in a bin with a wrong one of p 1.0, one alone in its own; the rest are wrong.
    gaps = abs(1 + 0.97 - 1) + abs(0.2 - 1) + 0.9 + 0.6 + 0.05 + 0.7 + 0.5 + 0.1
    assert found["ece"] == pytest.approx(gaps / 9)


def test_confident_and_right_is_calibrated():
    rows = [(0, 0, i, 0.0, 1, 0.75, i >= 6, 6) for i in range(8)]
    assert confidence(Written.of_columns(*zip(*rows, strict=True)))["ece"] == 0.0


def test_nearest_visible():
    visible = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    before = np.array([False, True, False, True])
    assert nearest_visible(visible, before).tolist() == [
        [3, 1, 1, 3],  # a visible token's neighbour is another one
        [1, 2, 3, 4],  # what stands before the block
        [0, 0, 0, 0],
        [1, 2, 1, 4],
    ]
