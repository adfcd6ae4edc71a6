"""Distances against their textbook values, intervals against what they must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastedit.evaluation.errors.divergence import (
    DRAWS,
    halves,
    interval,
    jensen_shannon,
    redrawn,
    shift,
    total_variation,
    verdict,
)


def kullback_leibler(p, q) -> float:
    return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a)


@pytest.mark.parametrize(
    ("p", "q"),
    [([1, 0], [0, 1]), ([1, 3], [3, 1]), ([5, 5, 0], [0, 4, 4]), ([2, 4, 6], [1, 2, 3])],
)
def test_jensen_shannon_is_the_mean_divergence_from_the_middle(p, q):
    one, other = (np.array(counts) / sum(counts) for counts in (p, q))
    middle = (one + other) / 2
    expected = (kullback_leibler(one, middle) + kullback_leibler(other, middle)) / 2
    assert float(jensen_shannon(np.array(p), np.array(q))) == pytest.approx(expected, abs=1e-15)
    assert float(jensen_shannon(np.array(q), np.array(p))) == pytest.approx(expected, abs=1e-15)


def test_textbook_values():
    p, q = np.array([1, 0, 3]), np.array([0, 1, 1])
    assert float(jensen_shannon(np.array([4, 0]), np.array([0, 9]))) == 1.0
    assert float(jensen_shannon(p, 2 * p)) == 0.0
    assert float(total_variation(p, q)) == pytest.approx((0.25 + 0.5 + 0.25) / 2)
    assert float(total_variation(p, 5 * p)) == 0.0
    # H(1/2) = 1 bit and H(1/4) = 0.811278 bits: JSD of (1/2, 1/2) and (0, 1).
    assert float(jensen_shannon(np.array([1, 1]), np.array([0, 1]))) == pytest.approx(
        0.8112781244591328 - 0.5
    )


def test_an_empty_histogram_has_no_distance():
    empty, some = np.array([0, 0]), np.array([1, 2])
    for distance in (jensen_shannon, total_variation):
        assert math.isnan(distance(empty, some)) and math.isnan(distance(empty, empty))
    assert verdict(math.nan, [0.0, 1.0]) is None and verdict(0.5, [math.nan] * 2) is None


def test_interval_holds_the_middle_of_what_is_known():
    values = np.concatenate([np.arange(1001.0), [math.nan] * 50])
    assert interval(values) == [25.0, 975.0]
    assert all(math.isnan(end) for end in interval(np.array([math.nan])))


def test_draws_are_those_of_a_bootstrap_and_of_halves():
    weights, split = (draw(7, np.random.default_rng(0)) for draw in (redrawn, halves))
    assert weights.shape == split.shape == (DRAWS, 7)
    assert (weights.sum(1) == 7).all() and weights.max() > 1
    assert (split.sum(1) == 3).all() and split.max() == 1
    assert np.abs(weights.mean(0) - 1).max() < 0.2 and np.abs(split.mean(0) - 3 / 7).max() < 0.1


def shifts(before, after, **options):
    weights, split = (draw(len(before), np.random.default_rng(0)) for draw in (redrawn, halves))
    return shift(before, after, jensen_shannon, weights, split, **options)


def test_shift_of_a_mean_is_told_from_chance():
    generator = np.random.default_rng(3)
    before, same = generator.multinomial(9, [0.5, 0.3, 0.2], size=(2, 60))
    other = generator.multinomial(9, [0.2, 0.3, 0.5], size=60)
    none, some = shifts(before, same), shifts(before, other)
    assert none["verdict"] == "shift not larger than the null interval"
    assert some["verdict"] == "shift larger than the null interval"
    assert some["interval"][0] < some["value"] < some["interval"][1]
    assert none["null"] == some["null"]  # that of `before` alone
    assert some["value"] == float(jensen_shannon(before.sum(0), other.sum(0)))


def test_same_counts_are_no_shift():
    before = np.random.default_rng(1).multinomial(5, [0.5, 0.5], size=20)
    found = shifts(before, before)
    assert found["value"] == 0.0 and found["interval"] == [0.0, 0.0] and found["null"][1] > 0
    assert found["verdict"] == "shift not larger than the null interval"


def test_null_of_two_draft_keys_is_their_own_distance():
    before = np.tile([3, 1], (10, 1))
    again, after = np.tile([2, 2], (10, 1)), np.tile([1, 3], (10, 1))
    distance = float(jensen_shannon(np.array([3, 1]), np.array([2, 2])))
    found = shifts(before, after, again=again)  # all samples are alike: redrawing changes nothing
    assert found["null"] == pytest.approx([distance, distance])
    assert found["verdict"] == "shift larger than the null interval"
    assert shifts(before, again, again=again)["verdict"].startswith("shift not larger")


def test_bootstrap_draws_whole_samples():
    """One sample of two holds all errors of one kind: without it, the histograms share nothing."""
    before, after = np.array([[4, 0], [0, 4]]), np.array([[4, 0], [4, 0]])
    found = shifts(before, after)
    draws = np.array([0.0, found["value"], found["value"], 1.0])  # each as likely
    bias = draws.mean() - found["value"]
    assert found["interval"] == pytest.approx([0.0, 1.0 - bias], abs=0.02)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
@pytest.mark.parametrize(("bins", "errors", "change"), [(32, 3.0, 0.5), (20, 5.0, 0.2)])
def test_an_interval_holds_its_value_and_more_often_the_true_one(seed, bins, errors, change):
    """`errors` of a sample, in many bins, where redrawing moves histograms apart."""
    generator = np.random.default_rng(seed)
    weights, split = redrawn(200, generator), halves(200, generator)
    p = np.full(bins, 1 / bins)
    q = p * (1 + change * np.where(np.arange(bins) % 2, 1, -1))
    true, inside, covers, covered = float(jensen_shannon(p, q)), 0, 0, 0
    for _ in range(20):
        before, after = (generator.poisson(errors * r, (200, bins)) for r in (p, q))
        found = shift(before, after, jensen_shannon, weights, split)
        as_drawn = interval(jensen_shannon(weights @ before, weights @ after))
        inside += found["interval"][0] <= found["value"] <= found["interval"][1]
        covers += found["interval"][0] <= true <= found["interval"][1]
        covered += as_drawn[0] <= true <= as_drawn[1]
    assert inside == 20
    assert covers >= covered + 7
