"""Settings side by side as a picture: right answers against tokens per forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fastedit.evaluation.errors.plots import require

WIDTH, HEIGHT = 8, 5  # inches
COLOURS = {"before": "tab:gray", "after": "tab:orange"}
MARKS = {"before": "s", "after": "o"}


def draw(rows: Iterable[Mapping[str, Any]], title: str, folder: Path) -> list[Path]:
    """Write accuracy.png and accuracy.svg: a point per row that ran, with its 95 % interval.

    Each is labelled with its setting; before and after differ in shape as well as in colour.
    Raises ImportError without matplotlib, OSError where it cannot write.
    """
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.subplots()
    named = set[str]()
    for row in rows:
        if "reason" in row:
            continue
        model, (low, high), share = row.get("model", ""), row["interval"], row["accuracy"]
        axis.errorbar(
            row["tokens_per_forward"],
            share,
            ([share - low], [high - share]),
            fmt=MARKS.get(model, "o"),
            color=COLOURS.get(model, "tab:blue"),
            label=None if model in named else model or None,
        )
        named.add(model)
        at = (row["tokens_per_forward"], share)
        axis.annotate(row["policy"], at, (6, 4), textcoords="offset points", fontsize=7)
    axis.set_xlabel("tokens per forward")
    axis.set_ylabel("share of right answers, 95 % interval")
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(title, wrap=True)
    if named - {""}:
        axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    written = [folder / f"accuracy.{suffix}" for suffix in ("png", "svg")]
    for path in written:
        figure.savefig(path, dpi=120)
    return written
