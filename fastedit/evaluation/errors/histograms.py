"""Errors by place, run, confidence and kind, counted per sample so that samples can be redrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastedit.evaluation.errors.rules import KINDS
from fastedit.evaluation.errors.written import Written
from fastedit.training.correction.detection import calibration_error, equal_bin

CONFIDENCE_BINS = 20
PLACE_BINS = 10
# Where bins of lengths begin; the last one is open.
DISTANCES = (1, 2, 3, 4, 5, 9, 17)
RUNS = (1, 2, 3, 4, 5, 9)


class Histogram(NamedTuple):
    """Names of K bins, and counts per sample, int64 [samples, K]."""

    bins: list[str]
    counts: np.ndarray


def histograms(written: Written, samples: int, block_size: int) -> dict[str, Histogram]:
    """Of the errors E among `written`, and one of what is right.

    | name | of | bins |
    |---|---|---|
    | position in block | i mod B | B |
    | position in response | i over the number of response positions | 10 |
    | distance to visible | to the nearest token that the model saw, 5-8, 9-16, 17+; "none" | 8 |
    | run length | errors in a row, 5-8, 9+ | 6 |
    | confidence on errors | p(y) in E | 20 |
    | confidence elsewhere | p(y) outside E | 20 |
    | kinds | see `rules.Rules` | 7 |
    """
    errors, rest = written.where(written.wrong), written.where(~written.wrong)
    owner, length = runs(errors)
    near = np.where(errors.distance > 0, _bin(errors.distance, DISTANCES), len(DISTANCES))

    def of(bins: Sequence[str], sample: np.ndarray, index: np.ndarray) -> Histogram:
        counts = np.zeros((samples, len(bins)), dtype=np.int64)
        np.add.at(counts, (sample, index), 1)
        return Histogram(list(bins), counts)

    places, shares = _shares(PLACE_BINS), _shares(CONFIDENCE_BINS)
    offsets = [str(offset) for offset in range(block_size)]
    return {
        "position in block": of(offsets, errors.sample, errors.position % block_size),
        "position in response": of(places, errors.sample, equal_bin(errors.relative, PLACE_BINS)),
        "distance to visible": of([*_names(DISTANCES), "none"], errors.sample, near),
        "run length": of(_names(RUNS), owner, _bin(length, RUNS)),
        "confidence on errors": of(shares, errors.sample, equal_bin(errors.prob, CONFIDENCE_BINS)),
        "confidence elsewhere": of(shares, rest.sample, equal_bin(rest.prob, CONFIDENCE_BINS)),
        "kinds": of(KINDS, errors.sample, errors.kind),
    }


def runs(errors: Written) -> tuple[np.ndarray, np.ndarray]:
    """Sample and length of every run of neighbouring wrong positions; int64 [runs] each.

    A position that was wrong several times counts once.
    """
    places = np.stack([errors.sample, errors.group, errors.position], axis=1)
    places = np.unique(places, axis=0)
    if not len(places):
        return places[:, 0], places[:, 0]
    goes_on = (np.diff(places, axis=0) == (0, 0, 1)).all(1)
    starts = np.concatenate([[0], (~goes_on).nonzero()[0] + 1])
    return places[starts, 0], np.diff([*starts, len(places)])


def confidence(written: Written) -> dict[str, float]:
    """How sure the model was; NaN where there is nothing to ask about.

    | name | |
    |---|---|
    | median on errors, median elsewhere | of p(y) in E and outside |
    | ece | sum over 20 equal bins of their share times abs(share right - mean p) |
    | errors above 0.5, 0.7 | share of E that a decoder with that threshold would commit |
    """
    on, off = written.prob[written.wrong], written.prob[~written.wrong]
    return {
        "median on errors": _of(np.median, on),
        "median elsewhere": _of(np.median, off),
        "ece": calibration_error(written.prob, ~written.wrong),
        "errors above 0.5": _of(np.mean, on > 0.5),
        "errors above 0.7": _of(np.mean, on > 0.7),
    }


def _bin(values: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    return np.searchsorted(starts, values, side="right") - 1


def _names(starts: Sequence[int]) -> list[str]:
    ends = [following - 1 for following in starts[1:]]
    pairs = zip(starts, ends, strict=False)
    return [*(str(a) if a == b else f"{a}-{b}" for a, b in pairs), f"{starts[-1]}+"]


def _shares(bins: int) -> list[str]:
    """Where equal bins begin."""
    return [f"{index / bins:.2f}" for index in range(bins)]


def _of(statistic, values: np.ndarray) -> float:
    return float(statistic(values)) if len(values) else float("nan")
