"""Before and after: counts of changes and the exact test, against published numbers."""

from __future__ import annotations

import pytest

from fastedit.evaluation.paired import paired


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 0, 0.0625),  # 2 / 2**5
        (1, 1, 1.0),
        (9, 1, 0.021484375),  # R: binom.test(9, 10)
        (2, 10, 0.03857421875),  # R: binom.test(2, 12)
    ],
)
def test_changes_are_counted_and_tested(gained, lost, p):
    before = [False] * gained + [True] * lost + [True, True, True, False]
    after = [True] * gained + [False] * lost + [True, True, True, False]
    found = paired(before, after)
    assert (found["wrong_to_right"], found["right_to_wrong"]) == (gained, lost)
    assert (found["right_in_both"], found["wrong_in_both"]) == (3, 1)
    assert found["p"] == pytest.approx(p)


def test_the_questions_must_be_the_same():
    with pytest.raises(ValueError):
        paired([True], [True, False])
