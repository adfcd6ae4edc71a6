"""The study of the correction head: its tables, its figure and its decision."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import markdown
from correction_arms import ARMS, DECIDING, DECISION, RELEASED, TASKS, paces
from curves import Curve, panels
from study import interval


def forwards(row: dict[str, Any], share: float) -> float:
    """Per answer, the head's part included."""
    _, head = ARMS[row["arm"]]
    return row["forwards"] / row["n"] * (1.0 + share * (head is not None))


def summary(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """A line per part, task, pace and arm: accuracy with its interval, forwards, tokens."""
    names = ("part", "task", "pace", "arm")
    found = []
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        those = [row for row in rows if tuple(row[name] for name in names) == key]
        mean, half = interval([row["accuracy"] for row in those])
        ends = those[0]["interval"] if math.isnan(half) else [mean - half, mean + half]
        line = dict(zip(names, key, strict=True)) | {"accuracy": mean, "interval": ends}
        line |= {"seeds": len(those), "n": those[0]["n"]}
        line["forwards"] = statistics.mean(forwards(row, share) for row in those)
        tokens = statistics.mean(row["tokens"] / row["n"] for row in those)
        line["tokens_per_forward"] = tokens / line["forwards"]
        for name in ("remasks_per_100_tokens", "edits_per_100_tokens"):
            line[name] = statistics.mean(row[name] for row in those)
        found.append(line)
    return found


def decision(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """For each arm with a head and pace: does it beat speed mode with no more forwards?

    By the mean over tasks, on the problems of the decision alone. It does where it takes no more
    forwards per answer, the head's included, and the lower end of the 95 % interval over seeds of
    the difference in accuracy is above 0.
    """
    part = [row for row in rows if row["part"] == "decision"]
    released = [row for row in part if (row["arm"], row["pace"]) == RELEASED]
    known = statistics.mean(row["accuracy"] for row in released)
    budget = statistics.mean(forwards(row, share) for row in released)
    found = []
    for arm, pace in itertools.product(DECIDING, DECISION):
        those = [row for row in part if (row["arm"], row["pace"]) == (arm, pace)]
        if not those or ARMS[arm][1] is None:
            continue
        gains = [
            statistics.mean(row["accuracy"] for row in those if row["seed"] == seed) - known
            for seed in sorted({row["seed"] for row in those})
        ]
        mean, half = interval(gains)
        taken = statistics.mean(forwards(row, share) for row in those)
        ships = taken <= budget and mean - half > 0  # never with one seed: half is NaN
        line = {"arm": arm, "pace": pace, "gain": mean, "half": half, "forwards": taken}
        found.append(line | {"budget": budget, "ships": ships})
    return found


def table(lines: list[dict[str, Any]], task: str, columns: Sequence[float]) -> str:
    """Markdown: a line per arm, a column per pace: exact answers, and tokens per forward."""
    unit = "threshold {}" if columns[0] < 1 else "{} per forward"
    found = {
        (line["arm"], line["pace"]): line
        for line in lines
        if (line["part"], line["task"]) == ("reported", task)
    }
    return markdown(
        [
            {"arm": arm}
            | {
                unit.format(pace): shown(found[arm, pace]) if (arm, pace) in found else "-"
                for pace in sorted(columns)
            }
            for arm in ARMS
            if paces(arm) == columns
        ]
    )


def shown(line: dict[str, Any]) -> str:
    low, high = (100 * end for end in line["interval"])
    spread = f"± {(high - low) / 2:.1f}" if line["seeds"] > 1 else f"({low:.0f}-{high:.0f})"
    return f"{100 * line['accuracy']:.1f} {spread} at {line['tokens_per_forward']:.2f}"


def figure(lines: list[dict[str, Any]], folder: Path) -> None:
    """Exact answers over tokens per forward, a curve per arm, a panel per task."""
    drawn: dict[str, list[Curve]] = {}
    for task in TASKS:
        those = [line for line in lines if (line["part"], line["task"]) == ("reported", task)]
        drawn[task] = [
            Curve(
                arm,
                [
                    (line["tokens_per_forward"], line["accuracy"], *line["interval"])
                    for line in those
                    if line["arm"] == arm
                ],
                dashed=arm in ("no correction", "confidence", "T2T"),
            )
            for arm in ARMS
        ]
    panels(drawn, "tokens per forward, the head's share included", folder / "correction")
