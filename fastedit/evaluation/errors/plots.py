"""The report as pictures: a figure per way of writing, as PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fastedit import extras

SIDES = (("before", "tab:gray"), ("after", "tab:orange"))
LABELS = 12  # at most on an axis
LONG = 6  # characters of a label that lies level
WIDTH, HEIGHT = 11, 13  # inches


def require() -> None:
    """Raises ImportError without matplotlib."""
    extras.require("matplotlib", "plot", "plots need")


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write drafts.png and drafts.svg, and the same for decoding where it was asked for.

    A panel per histogram, as shares, and one of all divergences with their intervals and null
    intervals. Raises ImportError without matplotlib, OSError where it cannot write.
    """
    require()
    asked = f"{report['samples']} samples of {report['source']}"
    parts = {"drafts": (report["drafts"]["all"], f"Drafts, {report['draft_mode']}, {asked}")}
    if report["decoding"]:
        parts["decoding"] = (report["decoding"], f"Decoding {report['decoding']['rule']}, {asked}")
    written = []
    for name, (part, title) in parts.items():
        figure = _figure(part, title)
        for suffix in ("png", "svg"):
            written.append(folder / f"{name}.{suffix}")
            figure.savefig(written[-1], dpi=120)
    return written


def _figure(part: dict[str, Any], title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots(4, 2).flat
    counts = [f"{side} {part[side]['errors']}" for side, _ in SIDES]
    figure.suptitle(f"{title}\nerrors: {', '.join(counts)}")
    for axis, (name, histogram) in zip(axes, part["histograms"].items(), strict=False):
        _histogram(axis, name, histogram)
    _divergences(axes[-1], part["shifts"])
    axes[0].legend(frameon=False)
    return figure


def _histogram(axis: Any, name: str, histogram: dict[str, Any]) -> None:
    places = np.arange(len(histogram["bins"]))
    for number, (side, colour) in enumerate(SIDES):
        counts = np.asarray(histogram[side])
        shares = counts / max(1, counts.sum())
        axis.bar(places + 0.4 * (number - 0.5), shares, 0.4, label=side, color=colour)
    every = -(-len(places) // LABELS)
    slope = 20 if max(map(len, histogram["bins"])) > LONG else 0
    axis.set_xticks(places[::every], histogram["bins"][::every], rotation=slope)
    axis.set_title(name)
    axis.set_ylabel("share")
    if name.startswith("confidence"):
        axis.set_yscale("symlog", linthresh=0.01)
    axis.spines[["top", "right"]].set_visible(False)


def _divergences(axis: Any, shifts: dict[str, Any]) -> None:
    """Dots with 95 % intervals; grey bars are the null intervals."""
    for place, shift in enumerate(shifts.values()):
        low, high = shift["null"]
        axis.barh(place, high - low, left=low, color="0.85")
        axis.plot(shift["interval"], [place, place], color="tab:orange")
        axis.plot(shift["value"], place, "o", color="tab:orange")
    axis.set_yticks(range(len(shifts)), list(shifts))
    axis.invert_yaxis()
    axis.set_title("divergence, 95 % interval; grey: null interval")
    axis.spines[["top", "right"]].set_visible(False)
