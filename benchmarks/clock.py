"""Seconds of a call, and the row that reports them."""

from __future__ import annotations

import statistics
import time


def timed(call):
    begin = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin


def row(label: str, name: str, tokens: int, times: list[float], ratios: list[float]) -> dict:
    """`times`: seconds per turn for `tokens`; `ratios`: times faster, per turn."""
    return {
        "requests": label,
        "decoding": name,
        "tokens/s": round(tokens / statistics.median(times)),
        "times faster": f"{statistics.median(ratios):.1f}",
        "range": f"{min(ratios):.1f} to {max(ratios):.1f}",
    }
