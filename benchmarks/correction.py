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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from conftest import machine
from correction_arms import (
    ARMS,
    DATA,
    DECIDING,
    DECISION,
    FILLS,
    HEADS,
    REPORTED,
    RUN,
    SIZE,
    TASKS,
    TAUS,
    THRESHOLDS,
    Part,
    paces,
    settled,
)
from correction_blame import blame
from correction_report import decision, figure, summary, table
from policies import measured
from study import keep_settings

from fastedit.files.locks import locked_folder
from fastedit.models.identity import identity


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
        for pace in (*THRESHOLDS, *FILLS):
            for arm, task in itertools.product(arms, TASKS):
                for seed in seeds[arm] if pace in sizes and pace in paces(arm) else ():
                    yield {"part": part, "arm": arm, "seed": seed, "task": task, "pace": pace}


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
            policy, head = ARMS[cell["arm"]]
            folder = train(head, cell["seed"], options) if head else None
            if folder not in decoders:
                decoders[folder] = Decoder.from_pretrained(options.checkpoint, head=folder)
            first, n = (DECISION if cell["part"] == "decision" else REPORTED)[cell["pace"]]
            how = {"policy": settled(policy, head, cell["pace"])}
            task: Any = Part(get_task(cell["task"]), first)
            row = evaluate(decoders[folder], task, n, **how)
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


def validations(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the heads logged on held-out drafts at the end of their training."""
    found = []
    for path in sorted(options.output.glob("*/validation.jsonl")):
        last = json.loads(path.read_text().splitlines()[-1])
        found.append({"head": path.parent.name} | last)
    return found


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
    blamed = blame(options.checkpoint)
    for task in TASKS:
        print(f"\n{task}: exact answers, %, at tokens per forward\n")
        print(f"{table(lines, task, FILLS)}\n\n{table(lines, task, THRESHOLDS)}")
    print("\n" + "\n".join(map(json.dumps, [*verdict, *blamed])))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        saved = {"machine": machine(), "settings": settings, "head_share": share}
        saved |= {"validations": validations(options), "decision": verdict, "blame": blamed}
        saved |= {"summary": lines, "rows": rows}
        (options.save / "correction.json").write_text(json.dumps(saved, indent=1) + "\n")
        figure(lines, options.save)


if __name__ == "__main__":
    main()
