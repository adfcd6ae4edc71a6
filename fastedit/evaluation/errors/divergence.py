"""How far apart two histograms are, and how far by chance: samples are redrawn or split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

DRAWS = 1000
PERCENT = (2.5, 97.5)  # a 95 % interval

# Counts [..., K] of two histograms -> their distance [...], NaN where one of them is empty
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits: 0 for equal shares, 1 for no bin in common."""
    p, q = _shares(p), _shares(q)
    return np.clip(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2, 0.0, 1.0)


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the sum of the differences of shares: the share that would have to move; 0 to 1."""
    return np.abs(_shares(p) - _shares(q)).sum(-1) / 2


def redrawn(samples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each sample is drawn in a bootstrap, int64 [DRAWS, samples]."""
    return generator.multinomial(samples, np.full(samples, 1 / samples), size=DRAWS)


def halves(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Random halves of the samples, 1 in the first, int64 [DRAWS, samples]."""
    order = generator.permuted(np.tile(np.arange(samples), (DRAWS, 1)), axis=1)
    return (order < samples // 2).astype(np.int64)


def interval(values: np.ndarray) -> list[float]:
    """Its 95 % by percentiles, without NaN; NaN where nothing else is there."""
    known = values[~np.isnan(values)]
    return [float(np.percentile(known, p)) if len(known) else float("nan") for p in PERCENT]


def shift(
    before: np.ndarray,
    after: np.ndarray,
    distance: Distance,
    weights: np.ndarray,
    split: np.ndarray,
    again: np.ndarray | None = None,
) -> dict[str, Any]:
    """Distance of two histograms, counts [samples, K] each, beside what chance alone gives.

    The interval is bias-corrected: redrawing adds noise to both histograms, and so moves them apart
    on the average. The draws are moved back by their mean less the value, within 0 and 1. The value
    has a bias of the same kind, which stays: of few errors in many bins, it is too large.

    weights  of a bootstrap, from `redrawn`; both histograms are redrawn together
    split    from `halves`: the null level is the distance of two halves of `before`
    again    the same model's counts with other draft keys; the null level is then their distance
             from `before`, redrawn, with the bias that redrawing has
    """
    value = float(distance(before.sum(0), after.sum(0)))
    if again is None:
        null = interval(distance(split @ before, (1 - split) @ before))
    else:
        null = interval(distance(weights @ before, weights @ again))
    return {
        "value": value,
        "interval": interval(_centred(distance(weights @ before, weights @ after), value)),
        "null": null,
        "verdict": verdict(value, null),
    }


def verdict(value: float, null: list[float]) -> str | None:
    """All that is claimed; None where a histogram is empty."""
    if np.isnan(value) or np.isnan(null[1]):
        return None
    return f"shift {'larger' if value > null[1] else 'not larger'} than the null interval"


def _centred(draws: np.ndarray, value: float) -> np.ndarray:
    """Draws of a distance around its value; NaN stays NaN."""
    known = draws[~np.isnan(draws)]
    return np.clip(draws - (known.mean() - value), 0.0, 1.0) if len(known) else draws


def _shares(counts: np.ndarray) -> np.ndarray:
    total = counts.sum(-1, keepdims=True)
    return counts / np.where(total, total, np.nan)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log2(np.where(shares == 0, 1.0, shares))).sum(-1)
