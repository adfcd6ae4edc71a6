"""Figures of exact answers against what they cost: a panel per task, a curve per arm."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

MARKERS = "os^vD<>P*XphdH"


class Curve(NamedTuple):
    """points: (cost, accuracy, the lower and the upper end of its interval)"""

    label: str
    points: list[tuple[float, float, float, float]]
    dashed: bool = False


def panels(drawn: dict[str, list[Curve]], cost: str, path: Path, note: str | None = None) -> None:
    """Write `path`.png and `path`.svg; cost: the label below every panel; note: over the legend."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (3 + 5 * len(drawn), 5)
    drawing, grid = plt.subplots(
        1, len(drawn), figsize=size, layout="constrained", sharey=True, squeeze=False
    )
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for axis, (title, curves) in zip(grid[0], drawn.items(), strict=True):
        for number, curve in enumerate(curves):
            points = sorted(curve.points)
            sides = [
                (max(0.0, 100 * (mid - low)), max(0.0, 100 * (high - mid)))
                for _, mid, low, high in points
            ]
            axis.errorbar(
                [x for x, *_ in points],
                [100 * mid for _, mid, *_ in points],
                yerr=[list(side) for side in zip(*sides, strict=True)],
                color=colours[number % len(colours)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="--" if curve.dashed else "-",
                markersize=5,
                linewidth=1.2,
                elinewidth=0.5,
                label=curve.label,
            )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(title)
        axis.set_xlabel(cost)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("exact answers, %")
    handles, labels = grid[0][0].get_legend_handles_labels()
    drawing.legend(handles, labels, fontsize=8, loc="outside right center", title=note)
    for kind in ("png", "svg"):
        drawing.savefig(path.with_suffix(f".{kind}"), dpi=150)
    plt.close(drawing)
