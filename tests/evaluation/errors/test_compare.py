"""Two models' tokens beside each other: what changed, what they have in common."""

from __future__ import annotations

import json
import math

import numpy as np

from fastedit.evaluation.errors.report import compare
from fastedit.evaluation.errors.written import Written


def table(*wrong: tuple[int, int], again: int = 1) -> Written:
    """Three samples of ten positions; (sample, position) are wrong, `again` times each."""
    rows = [
        (s, 0, i, i / 10, 1, 0.5, (s, i) in wrong, 6 if (s, i) in wrong else -1)
        for s in range(3)
        for i in range(10)
        for _ in range(again if (s, i) in wrong else 1)
    ]
    return Written.of_columns(*zip(*rows, strict=True))


def compared(before: Written, after: Written, **options):
    return compare(before, after, samples=3, block_size=4, **options)


BEFORE = table((0, 1), (0, 2), (1, 5), (2, 9))


def test_change_and_overlap_by_hand():
    found = compared(BEFORE, table((0, 2), (0, 3), (2, 9)))
    assert found["before"]["errors"] == 4 and found["after"]["errors"] == 3
    assert found["before"]["tokens"] == 30 and found["after"]["error rate"] == 0.1
    assert found["errors"]["change"] == -1 and found["errors"]["relative"] == -0.25
    assert found["jaccard"]["value"] == 2 / 5
    # Redrawn three times, the sample that changed counts 0 to 3 times.
    assert found["errors"]["interval"] == [-3.0, 0.0]
    assert found["jaccard"]["interval"][0] == 0.0 and found["jaccard"]["interval"][1] == 1.0


def test_same_tokens_are_no_change():
    found = compared(BEFORE, BEFORE)
    assert found["errors"] == {"change": 0, "relative": 0.0, "interval": [0.0, 0.0]}
    assert found["jaccard"] == {"value": 1.0, "interval": [1.0, 1.0]}
    for shift in found["shifts"].values():
        assert shift["value"] == 0.0 and shift["interval"] == [0.0, 0.0]
        assert shift["verdict"] == "shift not larger than the null interval"
    for histogram in found["histograms"].values():
        assert histogram["before"] == histogram["after"] != []


def test_no_errors_are_no_distribution():
    found = compared(BEFORE, table())
    assert found["errors"]["relative"] == -1.0 and found["jaccard"]["value"] == 0.0
    assert math.isnan(found["shifts"]["kinds"]["value"])
    assert found["shifts"]["kinds"]["verdict"] is None
    assert not math.isnan(found["shifts"]["confidence elsewhere"]["value"])
    neither = compared(table(), table())
    assert neither["jaccard"]["value"] == 1.0 and math.isnan(neither["errors"]["relative"])


def test_a_place_that_was_wrong_twice_is_one_place_and_two_errors():
    found = compared(BEFORE, table((0, 1), (0, 2), (1, 5), (2, 9), again=2))
    assert found["errors"]["change"] == 4 and found["jaccard"]["value"] == 1.0


def test_groups_are_other_places():
    other = BEFORE._replace(group=np.ones_like(BEFORE.group))
    assert compared(BEFORE, other)["jaccard"]["value"] == 0.0


def test_draft_keys_give_the_null_level_of_the_overlap():
    found = compared(BEFORE, table(), again=table((0, 1), (1, 5), (2, 9)))
    assert found["null"] == "two draft keys"
    assert found["errors"]["null"] == [-3.0, 0.0]
    assert found["jaccard"]["null"] == [0.5, 1.0]
    assert "null" not in compared(BEFORE, BEFORE)["jaccard"]


def test_intervals_follow_from_the_seed():
    """Of 50 samples with one error each, so that an interval can lie anywhere."""
    places = np.random.default_rng(0).integers(10, size=(2, 50))
    before, other = (
        Written.of_columns(*zip(*[(s, 0, i, i / 10, 1, 0.5, True, 6) for s, i in row], strict=True))
        for row in map(enumerate, places)
    )
    one, again, another = (
        compare(before, other, samples=50, block_size=4, seed=seed) for seed in (0, 0, 1)
    )
    assert json.dumps(one) == json.dumps(again)  # a NaN is no NaN
    name = "position in response"
    assert one["shifts"][name]["value"] == another["shifts"][name]["value"]
    for field in ("interval", "null"):
        assert one["shifts"][name][field] != another["shifts"][name][field]
