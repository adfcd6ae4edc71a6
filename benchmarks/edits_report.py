"""The study of edits: its tables, its figure, and what edits were worth."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import markdown
from curves import Curve, panels
from edits_arms import ARMS, SHARES
from edits_effects import EFFECTS, KINDS
from study import interval

_NAMES = ("base", "task", "arm", "share")


def _groups(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Rows that differ in their seeds alone, and what they have in common."""
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in _NAMES)].append(row)
    for key, those in found.items():
        yield dict(zip(_NAMES, key, strict=True)), those


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per base, task, arm and budget, with its 95 % interval over seeds."""
    lines = []
    for key, those in _groups(rows):
        mean, half = interval([row["accuracy"] for row in those])
        half = 0.0 if math.isnan(half) else half  # one seed has none
        line = key | {"accuracy": mean, "interval": [mean - half, mean + half]}
        line["seeds"] = len(those)
        line["policy"] = those[0]["policy"]
        for name in ("forwards", "drafted", "t2t_edits", "deletes", "inserts"):
            line[name] = statistics.mean(row[name] / row["n"] for row in those)
        lines.append(line)
    return lines


def differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an editor gains over masks alone ("against"), paired by seed: at the same budget, and
    where these take all of the forwards ("over": 1)."""
    known = {
        (row["base"], row["task"], row["arm"], row["share"], row["seed"]): row["accuracy"]
        for row in rows
    }
    found = []
    for key, those in _groups(rows):
        plain = [arm for arm in ARMS[key["base"]] if arm.startswith("masks alone")]
        if key["arm"] in plain:
            continue
        for arm, share in itertools.product(plain, dict.fromkeys((key["share"], 1))):
            gains = [
                row["accuracy"] - known[row["base"], row["task"], arm, share, row["seed"]]
                for row in those
            ]
            mean, half = interval(gains)
            found.append(key | {"against": arm, "over": share, "gain": mean, "half": half})
    return found


def effects(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per base, task, arm and budget: effects of single edits and turns of answers, summed over
    seeds, and how many answers there were."""
    found = []
    for key, those in _groups(rows):
        line: dict[str, Any] = key | {"answers": sum(row["n"] for row in those)}
        for kind in KINDS:
            line[kind] = {e: sum(row["effects"][kind][e] for row in those) for e in EFFECTS}
        for kind in (*KINDS, "several"):
            turns = {
                e: sum(row["turns"][kind][e] for row in those) for e in ("to_right", "to_wrong")
            }
            line[f"answers turned by {kind}"] = turns
        found.append(line)
    return found


def table(lines: list[dict[str, Any]], base: str, task: str) -> str:
    """Markdown: a line per arm, a column per budget: exact answers, and forwards per answer."""
    found = {
        (line["arm"], line["share"]): line
        for line in lines
        if (line["base"], line["task"]) == (base, task)
    }
    return markdown(
        [
            {"arm": arm} | {f"1/{share}": _shown(found[arm, share]) for share in SHARES}
            for arm in ARMS[base]
        ]
    )


def _shown(line: dict[str, Any]) -> str:
    half = 100 * (line["interval"][1] - line["accuracy"])
    spread = f" ± {half:.1f}" if line["seeds"] > 1 else ""
    return f"{100 * line['accuracy']:.1f}{spread} at {line['forwards']:.1f}"


def figure(lines: list[dict[str, Any]], folder: Path) -> None:
    """Exact answers over forwards per answer: a figure per base, a panel per task, a curve per
    arm."""
    for base in dict.fromkeys(line["base"] for line in lines):
        drawn: dict[str, list[Curve]] = {}
        those = [line for line in lines if line["base"] == base]
        for task in dict.fromkeys(line["task"] for line in those):
            drawn[task] = [_curve(arm, task, those) for arm in ARMS[base]]
        panels(drawn, "forwards per answer", folder / f"edits-{base}")


def _curve(arm: str, task: str, lines: list[dict[str, Any]]) -> Curve:
    points = [
        (line["forwards"], line["accuracy"], *line["interval"])
        for line in lines
        if (line["arm"], line["task"]) == (arm, task)
    ]
    return Curve(arm, points, dashed="," in arm)
