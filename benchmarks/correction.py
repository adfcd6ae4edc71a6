"""The claim of the correction head: does looking back repair what large steps break?

    python benchmarks/correction.py --output build/correction [--seeds 3] [--steps N] [--save DIR]

On one frozen checkpoint, by default the embedded one, correction heads are trained by
`fastedit train --head correction`, with Future-Context Augmentation and without, and with it but
without weights of errors. Then every arm decodes the same held-out problems of two tasks, with 1 to
16 forced fills per forward of a block of 32, on one fill schedule.

`OUTPUT/HEAD-SEED` is the run of a head and `OUTPUT/cells.jsonl` holds what was decoded, so a study
that was stopped goes on where it was. `--save` writes all of it as `correction.json`, and the
figure as PNG and SVG.

Forwards are counted alike: one with a head counts 1 + `head_share`, the multiply-adds per position
of the head over those of the model. Intervals are 95 %: Wilson's over problems where an arm has one
run; where it has a head per seed, Student's t over the seeds, on the same problems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from conftest import machine
from policies import measured
from study import interval, keep_settings

from fastedit.files.locks import locked_folder
from fastedit.models.identity import identity
from fastedit.policies import register
from fastedit.policies.base import Buffer, Stats, View, Write
from fastedit.policies.joint_threshold import JointThreshold

TASKS = ("chain_sum", "leg_counting")
FILLS = (8, 16, 4, 2, 1)  # per forward of a block of 32; in the order in which they are measured
# Half a block and more is drafted at once: smaller drafts of this model are hardly ever wrong.
FCA = {"targets": "fca", "candidates": "extra", "delta_t": 0.5, "count": 32}
FILLING = {"targets": "filling", "delta_t": 0.5, "count": 28}
SIZE = {"width": 64}  # a tenth of the model; two blocks of its own width would be half of it
HEADS = {"fca": FCA, "filling": FILLING, "unweighted": FCA | {"weighting": "none"}}
RUN = {"batch_size": 16, "max_length": 128, "learning_rate": 1e-3, "eval_examples": 120}
DATA = tuple(f"task:{task},examples=6000,seed=7" for task in TASKS)
# A check in every forward: blocks of 2 to 4 forwards would have none at a stride of 4.
LOOK = "stride=1,budget=2,ring=4"
# Found on 32 problems that are neither reported nor decide: with errors weighted by 20, .9 is an
# error in three. That of a head without weights is the same odds; of confidences, the better half.
TAUS = {"fca": 0.9, "filling": 0.9, "unweighted": 0.3, None: 0.5}


@register("patient")
@dataclass(frozen=True)
class Patient(JointThreshold):
    """`JointThreshold` that ends a block at the second forward that changes nothing.

    In the first one a correction may still remask: in the forward that ends a block it does not.
    """

    buffers: ClassVar[Mapping[str, Buffer]] = {
        **JointThreshold.buffers,
        "idle": Buffer(torch.int32, per_position=False),
    }

    def rule(self, stats: Stats, view: View) -> Write:
        write = super().rule(stats, view)
        complete = ~view.masked().any(-1)
        idle = torch.where(complete & write.done, view.buffers.idle + 1, 0).int()
        return Write(write.ids, idle >= 2, {**write.buffers, "idle": idle})

    def twin(self, view: View) -> None:
        """None that waits."""


# Rules that fill: so many masks per forward, and no more; the second edits as speed mode does.
_FILL = "threshold=1;editing_threshold=none;max_post_steps=0"
_EDIT = "threshold=1;editing_threshold=0;max_post_steps=16"
_WAIT = "threshold=1;editing_threshold=none;max_post_steps=16"
# Arm -> the policy without its fills, and the head that it has.
ARMS: dict[str, tuple[str, str | None]] = {
    "no correction": (f"joint_threshold:{_FILL}", None),
    "confidence": (f"correction:scorer=confidence,{LOOK},fill=joint_threshold;{_FILL}", None),
    "T2T": (f"joint_threshold:{_EDIT}", None),
    "head, FCA": (f"correction:{LOOK},fill=joint_threshold;{_FILL}", "fca"),
    "head, no FCA": (f"correction:{LOOK},fill=joint_threshold;{_FILL}", "filling"),
    "head, FCA + T2T": (f"correction:{LOOK},fill=joint_threshold;{_EDIT}", "fca"),
    "head, FCA, to the end": (f"correction:{LOOK},fill=patient;{_WAIT}", "fca"),
    "head, no FCA, to the end": (f"correction:{LOOK},fill=patient;{_WAIT}", "filling"),
    "head, FCA, no weights, to the end": (
        f"correction:{LOOK},fill=patient;{_WAIT}",
        "unweighted",
    ),
}
SPEED = "speed mode"  # as released: what a head would have to improve
# Which held-out problems: (first, how many) by fills; the decision is made on others.
REPORTED = {1: (0, 24), 2: (0, 40), 4: (0, 80), 8: (0, 100), 16: (0, 100)}
DECISION = {8: (200, 60), 16: (200, 60)}
DECIDING = ("head, FCA", "head, FCA + T2T", "head, FCA, to the end")


def settled(policy: str, head: str | None, fills: int) -> str:
    """The policy of an arm, with so many fills per forward and the threshold of its scores."""
    policy = f"{policy};num_to_transfer={fills}"
    if policy.startswith("joint_threshold"):
        return policy.replace(";", ",")
    return policy.replace(LOOK, f"{LOOK},tau={TAUS[head]}")


class Part:
    """The problems of a task from `first` on."""

    def __init__(self, task: Any, first: int) -> None:
        self._task, self._first = task, first

    def test_set(self, size: int) -> list[Any]:
        return self._task.test_set(self._first + size)[self._first :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def train(name: str, seed: int, options: argparse.Namespace) -> Path:
    """The folder of a head; it is trained, or trained further, where it is not there."""
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    folder = options.output / f"{name}-{seed}"
    if (folder / "head").exists():
        return folder / "head"
    values = {"checkpoint": options.checkpoint, "data": DATA, "output": str(folder), "seed": seed}
    values |= {"steps": options.steps, "save_every": 50, "eval_every": options.steps, **RUN}
    values |= {"head": "correction", "correction": HEADS[name] | SIZE, "device": "cpu"}
    values |= {"eval_data": "task:leg_counting"}
    return run(RunOptions.from_mapping(values), resume=folder.exists())


def cells(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is to be decoded: first what the decision needs, then the rest from few forwards on."""
    seeds = {arm: range(options.seeds if head else 1) for arm, (_, head) in ARMS.items()}
    seeds["head, FCA, no weights, to the end"] = range(1)
    for part, sizes, arms in (("decision", DECISION, DECIDING), ("reported", REPORTED, ARMS)):
        for fills in (fills for fills in FILLS if fills in sizes):
            for arm, task in itertools.product(arms, TASKS):
                for seed in seeds[arm]:
                    yield {"part": part, "arm": arm, "seed": seed, "task": task, "fills": fills}
        for task in TASKS:
            yield {"part": part, "arm": SPEED, "seed": 0, "task": task, "fills": 8}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per cell; what is missing is decoded, and the head that it needs is trained."""
    from fastedit import Decoder
    from fastedit.evaluation.accuracy import evaluate
    from fastedit.tasks import get_task

    path = options.output / "cells.jsonl"
    known = measured(path)
    path.write_text("".join(json.dumps(row) + "\n" for row in known.values()))
    decoders: dict[Path | None, Decoder] = {}
    rows = []
    for cell in cells(options):
        asked = " ".join(map(str, cell.values()))
        if asked not in known:
            policy, head = ARMS.get(cell["arm"], (None, None))
            folder = train(head, cell["seed"], options) if head else None
            if folder not in decoders:
                decoders[folder] = Decoder.from_pretrained(options.checkpoint, head=folder)
            first, n = (DECISION if cell["part"] == "decision" else REPORTED)[cell["fills"]]
            how = {"policy": settled(policy, head, cell["fills"])} if policy else {}
            task: Any = Part(get_task(cell["task"]), first)
            row = evaluate(decoders[folder], task, n, **(how or {"mode": "speed"}))
            known[asked] = {"asked": asked, **cell, **how, **row}
            with path.open("a") as file:
                file.write(json.dumps(known[asked]) + "\n")
            print(f"{asked}: {row['accuracy']:.3f} in {row['forwards'] / n:.2f}", flush=True)
        rows.append(known[asked])
    return rows


def head_share(checkpoint: str, head: Path) -> float:
    """Multiply-adds per position of a head over those of the model, by their weights."""
    from fastedit.heads import CorrectionHead
    from fastedit.models.load import load

    model, _ = load(checkpoint, None, "auto", torch.device("cpu"), None)
    own = sum(weight.numel() for weight in CorrectionHead.from_pretrained(head).parameters())
    routed = model.config.num_experts_per_tok / model.config.num_experts
    total = 0.0
    for name, weight in model.named_parameters():
        if "embed" not in name and "embedding" not in name:
            expert = ".experts." in name
            total += weight.numel() * (routed if expert else 1.0)
    return own / total


def forwards(row: dict[str, Any], share: float) -> float:
    """Per answer, the head's part included."""
    _, head = ARMS.get(row["arm"], (None, None))
    return row["forwards"] / row["n"] * (1.0 + share * (head is not None))


def summary(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """A line per part, task, fills and arm: accuracy with its interval, forwards, tokens."""
    found = []
    keys = dict.fromkeys((r["part"], r["task"], r["fills"], r["arm"]) for r in rows)
    for key in keys:
        those = [r for r in rows if (r["part"], r["task"], r["fills"], r["arm"]) == key]
        mean, half = interval([r["accuracy"] for r in those])
        ends = those[0]["interval"] if math.isnan(half) else [mean - half, mean + half]
        per_answer = sum(forwards(r, share) for r in those) / len(those)
        tokens = sum(r["tokens"] / r["n"] for r in those) / len(those)
        line = dict(zip(("part", "task", "fills", "arm"), key, strict=True))
        line |= {"accuracy": mean, "interval": ends, "seeds": len(those), "n": those[0]["n"]}
        line |= {"forwards": per_answer, "tokens_per_forward": tokens / per_answer}
        line["remasks_per_100_tokens"] = sum(r["remasks_per_100_tokens"] for r in those) / len(
            those
        )
        line["edits_per_100_tokens"] = sum(r["edits_per_100_tokens"] for r in those) / len(those)
        found.append(line)
    return found


def decision(rows: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """For each arm with a head and fills: does it beat speed mode with no more forwards?

    By the mean over tasks, on the problems of the decision alone. It does where it takes no more
    forwards per answer, the head's included, and the lower end of the 95 % interval over seeds of
    the difference in accuracy is above 0.
    """
    part = [row for row in rows if row["part"] == "decision"]
    speed = [row for row in part if row["arm"] == SPEED]
    known = sum(row["accuracy"] for row in speed) / len(TASKS)
    budget = sum(forwards(row, share) for row in speed) / len(TASKS)
    found = []
    for arm, fills in itertools.product(DECIDING, DECISION):
        those = [row for row in part if (row["arm"], row["fills"]) == (arm, fills)]
        seeds = sorted({row["seed"] for row in those})
        if not seeds:
            continue
        gains = [
            sum(row["accuracy"] for row in those if row["seed"] == seed) / len(TASKS) - known
            for seed in seeds
        ]
        mean, half = interval(gains)
        taken = sum(forwards(row, share) for row in those) / len(those)
        ships = taken <= budget and mean - half > 0  # never with one seed: half is NaN
        line = {"arm": arm, "fills": fills, "gain": mean, "half": half, "forwards": taken}
        found.append(line | {"budget": budget, "ships": ships})
    return found


def table(lines: list[dict[str, Any]], task: str) -> str:
    """Markdown: a line per arm, a column per fills: exact answers, and tokens per forward."""
    order = sorted(FILLS)
    head = ["arm", *(f"{fills} fills" for fills in order)]
    text = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for arm in (*ARMS, SPEED):
        cols = []
        for fills in order:
            those = [
                line
                for line in lines
                if (line["part"], line["task"], line["arm"], line["fills"])
                == ("reported", task, arm, fills)
            ]
            cols.append(_shown(those[0]) if those else "-")
        text.append(f"| {arm} | {' | '.join(cols)} |")
    return "\n".join(text)


def _shown(line: dict[str, Any]) -> str:
    low, high = (100 * end for end in line["interval"])
    spread = f"± {(high - low) / 2:.1f}" if line["seeds"] > 1 else f"({low:.0f}-{high:.0f})"
    return f"{100 * line['accuracy']:.1f} {spread} at {line['tokens_per_forward']:.2f}"


def validations(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the heads logged on held-out drafts at the end of their training."""
    found = []
    for path in sorted(options.output.glob("*/validation.jsonl")):
        last = json.loads(path.read_text().splitlines()[-1])
        found.append({"head": path.parent.name} | last)
    return found


def figure(lines: list[dict[str, Any]], folder: Path) -> None:
    """Exact answers over tokens per forward, a curve per arm, a panel per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained", sharey=True)
    for axis, task in zip(axes, TASKS, strict=True):
        for number_, arm in enumerate((*ARMS, SPEED)):
            those = [
                line
                for line in lines
                if (line["part"], line["task"], line["arm"]) == ("reported", task, arm)
            ]
            those.sort(key=lambda line: line["tokens_per_forward"])
            exact = [100 * line["accuracy"] for line in those]
            spread = [
                [max(0.0, 100 * (line["accuracy"] - line["interval"][0])) for line in those],
                [max(0.0, 100 * (line["interval"][1] - line["accuracy"])) for line in those],
            ]
            axis.errorbar(
                [line["tokens_per_forward"] for line in those],
                exact,
                yerr=spread,
                marker="osv^D<P*Xd"[number_],
                linestyle="--" if arm in ("no correction", "confidence", "T2T") else "-",
                linewidth=1.2,
                elinewidth=0.5,
                markersize=5,
                label=arm,
            )
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_title(task)
        axis.set_xlabel("tokens per forward, the head's share included")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("exact answers, %")
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, fontsize=8, loc="outside right center")
    for kind in ("png", "svg"):
        drawing.savefig(folder / f"correction.{kind}", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=75, help="of the training of a head")
    parser.add_argument("--save", type=Path, metavar="DIR", help="correction.json and the figure")
    options = parser.parse_args()
    settings = {"checkpoint": options.checkpoint, "steps": options.steps, "run": RUN, "data": DATA}
    settings |= {"heads": HEADS, "size": SIZE, "arms": ARMS}
    settings |= {"taus": {str(head): tau for head, tau in TAUS.items()}}
    settings |= {"weights": identity(options.checkpoint)["weights"]}
    options.output.mkdir(parents=True, exist_ok=True)
    with locked_folder(options.output):
        keep_settings(options.output, settings)
        rows = measure(options)
    share = head_share(options.checkpoint, options.output / "fca-0" / "head")
    lines, verdict = summary(rows, share), decision(rows, share)
    for task in TASKS:
        print(f"\n{task}: exact answers, %, at tokens per forward\n\n{table(lines, task)}")
    print("\n" + "\n".join(map(json.dumps, verdict)))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        saved = {"machine": machine(), "settings": settings, "head_share": share}
        saved |= {"validations": validations(options), "decision": verdict}
        saved |= {"summary": lines, "rows": rows}
        (options.save / "correction.json").write_text(json.dumps(saved, indent=1) + "\n")
        figure(lines, options.save)


if __name__ == "__main__":
    main()
