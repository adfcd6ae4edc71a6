"""How well error scores tell wrong tokens from right ones: exact, over all of them at once.

Scores are [N] and errors bool [N]; equal scores are never told apart, so the order of rows does not
matter. NaN where one of the two kinds is missing.
"""

from __future__ import annotations

import numpy as np

BINS = 20  # of the calibration error
FALSE_ALARMS = 0.05


def detection(logits: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """The metrics of a validation log.

    | name | |
    |---|---|
    | bce | mean binary cross entropy in nats, without weights |
    | auroc | probability that a wrong token has a higher score than a right one, ties half |
    | auprc | average precision: the mean over errors of the precision at their score |
    | ece | `calibration_error` of the error probabilities |
    | recall | share of errors found with false alarms on at most 5 % of the right tokens |
    | error_share | share of the tokens that are wrong: what auprc is without any skill |
    """
    logits, errors = logits.astype(np.float64), errors.astype(bool)
    if not len(logits):
        return dict.fromkeys(("bce", "auroc", "auprc", "ece", "recall", "error_share"), np.nan)
    probability = 0.5 * (1.0 + np.tanh(0.5 * logits))  # no overflow, as exp(-x) has
    return {
        "bce": float(np.mean(np.logaddexp(0.0, np.where(errors, -logits, logits)))),
        "auroc": auroc(logits, errors),
        "auprc": auprc(logits, errors),
        "ece": calibration_error(probability, errors),
        "recall": recall_at(logits, errors, FALSE_ALARMS),
        "error_share": float(np.mean(errors)),
    }


def auroc(scores: np.ndarray, errors: np.ndarray) -> float:
    """Area under recall over false alarms, by trapezoids."""
    found, alarms = _curve(scores, errors)
    if not found[-1] or not alarms[-1]:
        return float("nan")
    area = np.sum(np.diff(alarms) * (found[1:] + found[:-1])) / 2
    return float(area / (found[-1] * alarms[-1]))


def auprc(scores: np.ndarray, errors: np.ndarray) -> float:
    """Area under precision over recall, by steps: average precision."""
    found, alarms = _curve(scores, errors)
    if not found[-1]:
        return float("nan")
    precision = found[1:] / (found[1:] + alarms[1:])
    return float(np.sum(np.diff(found) * precision) / found[-1])


def recall_at(scores: np.ndarray, errors: np.ndarray, false_alarms: float) -> float:
    """Highest recall of a threshold with false alarms on at most this share of right tokens."""
    found, alarms = _curve(scores, errors)
    if not found[-1] or not alarms[-1]:
        return float("nan")
    return float(found[alarms <= false_alarms * alarms[-1]].max() / found[-1])


def calibration_error(probability: np.ndarray, outcome: np.ndarray) -> float:
    """Sum over 20 equal bins of their share times |mean probability - share of outcomes|."""
    if not len(probability):
        return float("nan")
    surplus = np.bincount(equal_bin(probability, BINS), probability - outcome, BINS)
    return float(np.abs(surplus).sum() / len(probability))


def equal_bin(share: np.ndarray, bins: int) -> np.ndarray:
    """Which of `bins` equal bins of [0, 1] a share lies in; 1 is in the last."""
    return np.minimum((share * bins).astype(np.int64), bins - 1)


def _curve(scores: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Errors found and false alarms at every threshold, from none of the tokens to all of them."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[: len(scores)]  # of equal scores
    marked = errors[order].astype(np.int64)
    found, alarms = np.cumsum(marked)[last], np.cumsum(1 - marked)[last]
    return np.insert(found, 0, 0), np.insert(alarms, 0, 0)
