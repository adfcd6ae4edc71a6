"""Before and after, question by question: what was lost, and what was gained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def paired(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """How many answers to the same questions became right, and wrong.

    p: the two-sided exact McNemar test, the probability that changes which go either way equally
    often are split at least as unevenly as these.
    """
    gained = sum(not b and a for b, a in zip(before, after, strict=True))
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    changed, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(changed, k) for k in range(fewer + 1)) / 2**changed
    return {
        "wrong_to_right": gained,
        "right_to_wrong": lost,
        "right_in_both": sum(b and a for b, a in zip(before, after, strict=True)),
        "wrong_in_both": sum(not b and not a for b, a in zip(before, after, strict=True)),
        "p": min(1.0, 2 * tail),
    }
