"""One row of a table of throughputs."""

from __future__ import annotations

import statistics


def row(label: str, name: str, tokens: int, times: list[float], ratios: list[float]) -> dict:
    """`times`: seconds per turn for `tokens`; `ratios`: times faster, per turn."""
    return {
        "workload": label,
        "decoding": name,
        "tokens/s": round(tokens / statistics.median(times)),
        "times faster": f"{statistics.median(ratios):.1f}",
        "range": f"{min(ratios):.1f} to {max(ratios):.1f}",
    }
