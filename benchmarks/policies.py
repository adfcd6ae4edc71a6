"""Policies at equal budgets: exact answers against forwards, a curve for each, on two tasks.

    python benchmarks/policies.py --output build/policies [--n 100] [--save DIR]

One checkpoint, by default the embedded one, decodes the same held-out problems under every policy,
with a few values of the parameter that says how many forwards a block takes. `OUTPUT/TASK.jsonl`
holds the points as they are measured, so a run that was stopped goes on where it was. `--save`
writes all of it as `policies.json`, and the figure as PNG and SVG.

Forwards are per answer, in blocks of rows: one with shadow rows counts 2, one over m reopened
blocks m, a corrector pass 1. Intervals are Wilson's, 95 %, of the share of exact answers; the
problems are the same everywhere, and so is what each of them draws with.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from conftest import machine, markdown
from curves import Curve, panels
from study import keep_settings

from fastedit.files.jsonl import parse
from fastedit.files.locks import locked_folder
from fastedit.models.identity import identity

TASKS = ("chain_sum", "leg_counting")
# A curve: the policy, the field that is varied, its values.
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
STEPS = (2, 4, 8, 16)
CURVES: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "joint_threshold": ("joint_threshold", "threshold", THRESHOLDS),
    "joint_threshold, no edits": (
        "joint_threshold:editing_threshold=none",
        "threshold",
        THRESHOLDS,
    ),
    "low_confidence": ("low_confidence", "threshold", THRESHOLDS),
    "confidence, factor": ("confidence:rule=factor", "factor", (0.3, 1, 3, 10, 30)),
    "remask": ("remask", "threshold", THRESHOLDS),
    "multi_block": ("multi_block", "rounds", (0, 1, 2, 5)),
    "wino": ("wino", "threshold", THRESHOLDS),
    "saber": ("saber", "least", (2, 4, 8, 16)),
    "proseco": ("proseco", "steps", STEPS),
    "correction, confidence": ("correction:scorer=confidence", "steps", STEPS),
    "correction, rank": ("correction:mode=rank", "steps", STEPS),
    "remdm": ("remdm", "steps", STEPS),
    "self_correction": ("self_correction", "k", (2, 4, 8, 16)),
    "entropy_bound": ("entropy_bound", "bound", (0.1, 0.3, 1, 3, 10)),
}
SEED = 0  # of the first problem's draws; the next one has the next
BUDGETS = (3, 4, 6, 8, 16)  # forwards per answer


def points(name: str) -> list[str]:
    """The policies of a curve, as on the command line."""
    policy, field, values = CURVES[name]
    mark = "," if ":" in policy else ":"
    return [f"{policy}{mark}{field}={value}" for value in values]


def measured(path: Path) -> dict[str, dict[str, Any]]:
    """Points of an earlier run by their policy; a line that was cut off is none."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rows = [parse(line) for line in lines if line.endswith(b"\n")]
    return {row["asked"]: row for row in rows}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per task and point; what is missing is decoded."""
    from fastedit import Decoder
    from fastedit.evaluation.policies import compare
    from fastedit.policies import parse as policy
    from fastedit.tasks import get_task

    decoder = Decoder.from_pretrained(options.checkpoint)
    rows = []
    for task in TASKS:
        path = options.output / f"{task}.jsonl"
        known = measured(path)
        path.write_text("".join(json.dumps(row) + "\n" for row in known.values()))
        for curve in CURVES:
            for asked in points(curve):
                if asked not in known:
                    (row,) = compare(decoder, get_task(task), [policy(asked)], options.n, seed=SEED)
                    known[asked] = {"curve": curve, "asked": asked, "task": task} | row
                    with path.open("a") as file:
                        file.write(json.dumps(known[asked]) + "\n")
                    print(f"{task}  {asked}  {row.get('accuracy')}", flush=True)
                rows.append(known[asked])
    return rows


def forwards(row: dict[str, Any]) -> float:
    return row["block_forwards"] / row["n"]


def best(rows: list[dict[str, Any]], curve: str, task: str, budget: float) -> str:
    """The most exact point of a curve that takes at most `budget` forwards per answer."""
    within = [
        row
        for row in rows
        if (row["curve"], row["task"]) == (curve, task) and forwards(row) <= budget
    ]
    if not within:
        return "-"
    found = max(within, key=lambda row: (row["accuracy"], -forwards(row)))
    low, high = (100 * end for end in found["interval"])
    return f"{100 * found['accuracy']:.0f} ({low:.0f}-{high:.0f})"


def table(rows: list[dict[str, Any]], task: str) -> str:
    """Markdown: a line per curve, a column per budget."""
    return markdown(
        [
            {"policy": f"`{curve}`"}
            | {f"at most {budget}": best(rows, curve, task, budget) for budget in BUDGETS}
            for curve in CURVES
        ]
    )


def figure(rows: list[dict[str, Any]], folder: Path) -> None:
    """Exact answers over forwards per answer, a curve per policy, a panel per task."""
    drawn: dict[str, list[Curve]] = {}
    for task in TASKS:
        drawn[task] = []
        for number, curve in enumerate(CURVES):
            those = [row for row in rows if (row["curve"], row["task"]) == (curve, task)]
            label = curve + ("*" if those[0]["needs_training"] else "")
            points = [(forwards(row), row["accuracy"], *row["interval"]) for row in those]
            drawn[task].append(Curve(label, points, dashed=number >= 10))
    panels(drawn, "forwards per answer, in blocks of rows", folder / "policies", "* needs training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--n", type=int, default=100, help="held-out problems per task")
    parser.add_argument("--save", type=Path, metavar="DIR", help="policies.json and the figure")
    options = parser.parse_args()
    settings = {"checkpoint": options.checkpoint, "n": options.n, "seed": SEED}
    settings |= {"weights": identity(options.checkpoint)["weights"]}
    with locked_folder(options.output):
        keep_settings(options.output, settings)
        rows = measure(options)
    for task in TASKS:
        print(f"\n{task}: exact answers, %, within a budget of forwards per answer\n")
        print(table(rows, task))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        saved = {"machine": machine(), "settings": settings, "rows": rows}
        (options.save / "policies.json").write_text(json.dumps(saved, indent=1) + "\n")
        figure(rows, options.save)


if __name__ == "__main__":
    main()
