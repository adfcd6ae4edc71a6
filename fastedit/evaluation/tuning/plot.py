"""The front as a picture: right answers against forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastedit.evaluation.errors.plots import require

WIDTH, HEIGHT = 8, 5  # inches


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write front.png and front.svg.

    Grey: all settings on the half for choosing. Orange: the front, hollow where it was chosen and
    full on the held-out half, with 95 % intervals. A star: the default, held out. Raises
    ImportError without matplotlib, OSError where it cannot write.
    """
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.subplots()
    axis.plot(*_columns(report["candidates"]), "o", color="0.8", label="tried")
    chosen, held_out = (
        [one[half] for one in report["front"]] for half in ("selection", "held_out")
    )
    axis.plot(*_columns(chosen), "o--", color="tab:orange", mfc="none", label="front, as chosen")
    for points, mark, colour, label in (
        (held_out, "o", "tab:orange", "front, held out"),
        ([report["default"]["held_out"]], "*", "tab:blue", "default, held out"),
    ):
        forwards, shares = _columns(points)
        ends = zip(*(point["interval"] for point in points), strict=True)
        low, high = (list(map(abs, map(float.__sub__, end, shares))) for end in ends)
        axis.errorbar(forwards, shares, (low, high), fmt=mark, color=colour, ms=9, label=label)
    axis.set_xlabel("forwards per answer")
    axis.set_ylabel("share of right answers")
    axis.set_title(f"{report['policy']}: {report['source']}", wrap=True)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    written = [folder / f"front.{suffix}" for suffix in ("png", "svg")]
    for path in written:
        figure.savefig(path, dpi=120)
    return written


def _columns(points: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Forwards per answer, and shares of right answers."""
    names = ("forwards_per_answer", "accuracy")
    forwards, shares = ([point[name] for point in points] for name in names)
    return forwards, shares
