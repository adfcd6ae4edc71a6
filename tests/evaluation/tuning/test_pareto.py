"""Fronts of quality and cost, against what the words say of each point."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastedit.evaluation.tuning.pareto import beats, better_half, front

POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12)


def test_the_front_is_what_nobody_beats_cheapest_first():
    points = [(5, 9), (3, 4), (3, 5), (5, 9), (1, 1), (0, 1), (4, 8)]
    assert front(points) == [4, 1, 6, 0]
    assert front([]) == [] and front([(0, 7)]) == [0]


@given(POINTS)
def test_every_point_is_on_the_front_once_or_beaten_by_one_that_is(points):
    best = front(points)
    values = [points[index] for index in best]
    assert values == sorted(set(values))  # more for more, so no two are equal or beaten
    for point in points:
        assert (point in values) != any(beats(value, point) for value in values)
    assert all(points.index(value) == index for value, index in zip(values, best, strict=True))


@given(POINTS)
def test_the_better_half_is_whole_layers_and_no_more_than_it_takes(points):
    kept = better_half(points)
    assert 2 * len(kept) >= len(points) and kept == sorted(set(kept))
    out = [point for index, point in enumerate(points) if index not in kept]
    inside = [points[index] for index in kept]
    assert not any(beats(bad, good) for bad in out for good in inside)
    assert {points[i] for i in front(points)} <= set(inside)
    layers, left = 0, points
    while left and 2 * (len(points) - len(left)) < len(points):
        left = [point for point in left if any(beats(other, point) for other in left)]
        layers += 1
    assert len(kept) == len(points) - len(left)
