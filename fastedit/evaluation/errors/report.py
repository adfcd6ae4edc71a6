"""The report: errors of two models on the same samples, compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastedit.evaluation.errors.divergence import (
    Distance,
    halves,
    interval,
    jensen_shannon,
    redrawn,
    shift,
    total_variation,
)
from fastedit.evaluation.errors.histograms import confidence, histograms
from fastedit.evaluation.errors.written import Written

REPORT_VERSION = 1  # of the keys, and of what they mean


def compare(
    before: Written,
    after: Written,
    *,
    samples: int,
    block_size: int,
    seed: int = 0,
    again: Written | None = None,
) -> dict[str, Any]:
    """Two models' tokens on the same samples; NaN where there is nothing to compare.

    again  tokens of the model before with other draft keys, the null level when drafts are drawn;
           without it two halves of its samples are. See `divergence.shift`.

    `before` and `after` hold each model's own numbers; `errors`, `jaccard` and `shifts` compare;
    `null` says where the null intervals are from.
    """
    generator = np.random.default_rng(seed)
    weights, split = redrawn(samples, generator), halves(samples, generator)
    sides = [histograms(side, samples, block_size) for side in (before, after)]
    null = {} if again is None else histograms(again, samples, block_size)

    def shifted(name: str, distance: Distance) -> dict[str, Any]:
        first, second = (side[name].counts for side in sides)
        chance = null[name].counts if null else None
        return shift(first, second, distance, weights, split, chance)

    shifts = {name: shifted(name, jensen_shannon) for name in sides[0]}
    shifts["kinds, total variation"] = shifted("kinds", total_variation)
    overlap = _overlap(before, after, samples, weights)
    if again is not None:
        for name, chance in _overlap(before, again, samples, weights).items():
            overlap[name]["null"] = chance["interval"]
    return {
        "before": _side(before),
        "after": _side(after),
        **overlap,
        "null": "two halves of the samples" if again is None else "two draft keys",
        "shifts": shifts,
        "histograms": {
            name: {
                "bins": bins,
                "before": counts.sum(0).tolist(),
                "after": sides[1][name].counts.sum(0).tolist(),
            }
            for name, (bins, counts) in sides[0].items()
        },
    }


def _side(written: Written) -> dict[str, Any]:
    count = int(written.wrong.sum())
    return {
        "tokens": len(written.wrong),
        "errors": count,
        "error rate": count / len(written.wrong) if len(written.wrong) else float("nan"),
        **confidence(written),
    }


def _overlap(
    before: Written, after: Written, samples: int, weights: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Change of |E|, and the Jaccard overlap of the places in E: 1 where neither has any."""
    counts = [np.bincount(side.sample[side.wrong], minlength=samples) for side in (before, after)]
    first, second = (_places(side) for side in (before, after))
    common = _per_sample(first & second, samples)
    either = _per_sample(first | second, samples)

    def jaccard(common: np.ndarray, either: np.ndarray) -> np.ndarray:
        return np.where(either == 0, 1.0, common / np.maximum(either, 1))

    change = counts[1] - counts[0]
    total = int(counts[0].sum())
    return {
        "errors": {
            "change": int(change.sum()),
            "relative": int(change.sum()) / total if total else float("nan"),
            "interval": interval((weights @ change).astype(float)),
        },
        "jaccard": {
            "value": float(jaccard(common.sum(), either.sum())),
            "interval": interval(jaccard(weights @ common, weights @ either)),
        },
    }


def _places(written: Written) -> set[tuple[int, int, int]]:
    """(sample, group, position) of E, each once."""
    errors = written.where(written.wrong)
    columns = (errors.sample, errors.group, errors.position)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def _per_sample(places: set[tuple[int, int, int]], samples: int) -> np.ndarray:
    owners = np.fromiter((sample for sample, *_ in places), dtype=np.int64, count=len(places))
    return np.bincount(owners, minlength=samples)
