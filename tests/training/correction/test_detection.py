"""Each metric against its definition, restated in loops, with ties and without."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastedit.training.correction.detection import detection


def restated(logits, errors) -> dict[str, float]:
    rows = list(zip(logits, errors, strict=True))
    probs = [1 / (1 + math.exp(-x)) for x in logits]
    wrong = [x for x, e in rows if e]
    right = [x for x, e in rows if not e]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in wrong for b in right]
    precisions = []
    for score in wrong:
        above = [e for x, e in rows if x >= score]
        precisions.append(sum(above) / len(above))
    recalls = [0.0]
    for threshold in set(logits):
        if sum(x >= threshold for x in right) <= 0.05 * len(right):
            recalls.append(sum(x >= threshold for x in wrong) / len(wrong))
    ece = 0.0
    for number in range(20):
        inside = [
            (p, e) for p, e in zip(probs, errors, strict=True) if min(int(p * 20), 19) == number
        ]
        ece += abs(sum(p - e for p, e in inside)) / len(rows)
    bce = [-math.log(p if e else 1 - p) for p, e in zip(probs, errors, strict=True)]
    return {
        "bce": sum(bce) / len(bce),
        "auroc": sum(pairs) / len(pairs),
        "auprc": sum(precisions) / len(precisions),
        "ece": ece,
        "recall": max(recalls),
        "error_share": len(wrong) / len(rows),
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_by_their_definitions(seed, tied):
    draw = np.random.default_rng(seed)
    errors = draw.random(120) < 0.2
    logits = draw.normal(size=120) + errors
    logits = np.round(logits) if tied else logits
    assert detection(logits, errors) == pytest.approx(restated(logits.tolist(), errors.tolist()))


def test_the_best_the_worst_and_the_blind():
    errors = np.array([True] * 2 + [False] * 6)
    best, blind = detection(np.where(errors, 90.0, -90.0), errors), detection(np.zeros(8), errors)
    assert (best["auroc"], best["auprc"], best["recall"]) == (1.0, 1.0, 1.0)
    assert best["bce"] < 1e-30 and best["ece"] == pytest.approx(0)
    assert (blind["auroc"], blind["auprc"], blind["recall"]) == (0.5, 0.25, 0.0)
    assert detection(np.where(errors, -90.0, 90.0), errors)["auroc"] == 0.0


def test_what_cannot_be_told_is_nan():
    for found in (
        detection(np.zeros(3), np.zeros(3, dtype=bool)),
        detection(np.zeros(3), np.ones(3, dtype=bool)),
        detection(np.zeros(0), np.zeros(0, dtype=bool)),
    ):
        assert math.isnan(found["auroc"]) and math.isnan(found["recall"])
