"""The report of `fastedit eval errors` as lines that fit a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

NUMBERS = {
    "tokens": "tokens",
    "errors": "errors",
    "error rate": "error rate",
    "median on errors": "median p of errors",
    "median elsewhere": "median p elsewhere",
    "errors above 0.5": "errors with p > 0.5",
    "errors above 0.7": "errors with p > 0.7",
    "ece": "calibration error (ECE)",
    "replaced": "tokens replaced",
    "deleted": "tokens deleted",
    "inserted": "masks inserted",
}
LEGEND = (
    "divergence: Jensen-Shannon in bits, or total variation; each from 0 to 1.",
    "In brackets: 95 % by redrawing the samples. null: what chance alone gives,",
    "by {null} of the model before.",
)


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report, a line each: drafts at all rates, then decoding."""
    before, after = report["before"], report["after"]
    yield f"before {before}, after {after}" + (
        f" with {report['adapter']}" if report["adapter"] else ""
    )
    yield f"{report['samples']} samples of {report['source']}" + (
        f", {report['truncated']} cut off" if report["truncated"] else ""
    )
    drafts = report["drafts"]
    yield ""
    yield f"Drafts into the same masks, {report['draft_mode']}"
    yield from _comparison(drafts["all"])
    for name, part in drafts.items():
        if name != "all":
            yield _pair(f"error rate at {name}", part["before"], part["after"], "error rate")
    yield ""
    yield from _shifts(drafts["all"])
    if report["decoding"]:
        yield ""
        yield f"Decoding {report['decoding']['rule']}: a token that was edited later is an error"
        yield from _comparison(report["decoding"])
        yield ""
        yield from _shifts(report["decoding"])


def _comparison(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'':<26}{'before':>10}{'after':>10}"
    for key, label in NUMBERS.items():
        if key in part["before"]:  # of edits in decoding alone
            yield _pair(label, part["before"], part["after"], key)
    errors, jaccard = part["errors"], part["jaccard"]
    relative = "" if math.isnan(errors["relative"]) else f", {errors['relative']:+.1%}"
    low, high = errors["interval"]
    yield f"{'change of errors':<26}{errors['change']:+} ({low:+.0f} to {high:+.0f}{relative})"
    yield f"{'in common (Jaccard)':<26}{_spread(jaccard)}" + (
        f", null {_range(jaccard['null'])}" if "null" in jaccard else ""
    )


def _shifts(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'distribution':<24}{'divergence':<21}{'null':<13}shift"
    for name, found in part["shifts"].items():
        verdict = (
            (found["verdict"] or "-").removeprefix("shift ").replace("the null interval", "null")
        )
        yield f"{name:<24}{_spread(found):<21}{_range(found['null']):<13}{verdict}"
    for line in LEGEND:
        yield line.format(null=part["null"])


def _pair(label: str, before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    return f"{label:<26}{_number(before[key]):>10}{_number(after[key]):>10}"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value}"
    return "-" if math.isnan(value) else f"{value:.3f}"


def _spread(found: Mapping[str, Any]) -> str:
    if math.isnan(found["value"]):
        return "-"
    return f"{found['value']:.3f} ({_range(found['interval'])})"


def _range(interval: list[float]) -> str:
    return "-" if math.isnan(interval[0]) else f"{interval[0]:.3f}-{interval[1]:.3f}"
