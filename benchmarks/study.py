"""The study: what wrong tokens to train an editor on. Three arms, several seeds, two tasks.

    python benchmarks/study.py --output build/study [--seeds 5] [--steps 120] [--save DIR]
    python benchmarks/study.py --over-edit --checkpoint build/edits/bases/block_causal/checkpoint
        --output build/study_overedit --n 200

From one checkpoint, by default what the first stage of `make tiny` makes, LoRA adapters are trained
on the same problems with the same masks for as many steps, the arms differing in `--t2t` alone:
none, random, self. Each is then decoded on the same held-out problems of each task, in quality and
speed mode and in speed mode without editing. `OUTPUT/ARM-SEED.json` holds a finished run, so a
study that was stopped goes on where it was. `--save` writes all of it as `study.json`, and the
figure as PNG and SVG.

The checkpoint hardly edits. With `--over-edit` the arms start from a base that edits a lot, on the
tasks of the study of edits. It is trained first, from the block-causal one of `make bases`, see
`study_base.py`; `--save` writes `study_overedit.json`.

Intervals are Student's t over seeds: of an arm's mean, and of the difference of two arms whose runs
are paired by seed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import edits_arms
from conftest import machine
from correction_arms import Part
from study_base import RECIPE, SELECTED, train_base

from fastedit.files.locks import locked_folder

ARMS = ("none", "random", "self")
TASKS = ("chain_sum", "leg_counting")
# threshold, editing threshold; without editing, the drafts of the speed mode stand as they are
MODES = {"quality": (0.7, 0.5), "speed": (0.5, 0.0), "speed, no editing": (0.5, None)}
METRICS = ("accuracy", "edits_per_100_tokens", "tokens_per_forward")
KINDS = ("repairs", "breaks", "others")
DATA = tuple(f"task:{task},examples=6000" for task in TASKS)
# Masks up to all of a block, as a decoder sees them: most errors of a draft are made there.
EDIT = {"noise": "uniform_block(0.3,1)"}
RUN = {"batch_size": 32, "max_length": 128, "learning_rate": 2e-3, "eval_examples": 0}
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # by seeds


def train(arm: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train one adapter; what it cost and what the last tenth of the steps logged, on average."""
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    asked = {"checkpoint": options.checkpoint, "data": options.data, "output": str(folder)}
    asked |= {"seed": seed, "steps": options.steps, "save_every": options.steps}
    asked |= {"edit": EDIT | {"t2t": arm}, **options.run}
    began = time.perf_counter()
    run(RunOptions.from_mapping(asked), resume=folder.exists())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = lines[-max(1, options.steps // 10) :]
    names = ("loss", "masked_accuracy", "edit_accuracy", "false_edit_rate", "draft_error_rate")
    seen = {name: [line[name] for line in last if line.get(name) is not None] for name in names}
    means = {name: statistics.mean(values) for name, values in seen.items() if values}
    return {"seconds": time.perf_counter() - began, "end_of_training": means}


def decode(
    options: argparse.Namespace, adapter: str | None, problems: range, modes: set[str]
) -> list[dict[str, Any]]:
    """What `fastedit eval` reports of these held-out problems, per task and mode."""
    from fastedit import Decoder
    from fastedit.evaluation.accuracy import evaluate
    from fastedit.tasks import get_task

    decoder = Decoder.from_pretrained(options.checkpoint, adapter=adapter)
    rows = []
    for name, (mode, thresholds) in itertools.product(options.tasks, MODES.items()):
        if mode not in modes:
            continue
        settings = dict(zip(("threshold", "editing_threshold"), thresholds, strict=True))
        task: Any = Part(get_task(name), problems.start)
        row = evaluate(decoder, task, len(problems), **settings) | {"mode": mode}
        rows.append(row | kinds_of_edits(decoder, task.test_set(len(problems)), task, settings))
    return rows


def kinds_of_edits(decoder: Any, problems: list, task: Any, settings: dict) -> dict[str, float]:
    """Edits per 100 tokens that write the worked solution's token, overwrite it, or do neither.

    There is one right answer, so the right token of every position is known.
    """
    count = dict.fromkeys(KINDS, 0)
    mask = decoder.tokenizer.mask_token_id
    tokens = 0
    for start in range(0, len(problems), 32):
        batch = problems[start : start + 32]
        prompts = [task.messages(problem.question) for problem in batch]
        requests, room = decoder._prepare(prompts, None, None, settings)
        for request, problem in zip(requests, batch, strict=True):
            right = decoder.tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
            request.on_draft = watch([*right, decoder.tokenizer.eos_token_id], mask, count)
        with decoder._running(requests, room) as steps:
            for _ in steps:
                pass
        tokens += sum(request.stats.tokens for request in requests)
    return {f"{kind}_per_100_tokens": 100.0 * many / tokens for kind, many in count.items()}


def watch(right: list[int], mask: int, count: dict[str, int]) -> Callable[..., None]:
    """Called with a request and its block's ids after every step; adds its edits to `count`."""
    held: dict[int, int] = {}  # by position in the answer

    def on_draft(request: Any, ids: Any, logits: Any) -> None:
        assert not request.restarts, "out of memory: a block began again, take a smaller batch"
        first = request.start + request.head - len(request.prompt)
        for place, token in enumerate(ids[request.head :].tolist(), first):
            before = held.get(place, mask)
            held[place] = token
            if before in (mask, token) or place >= len(right):
                continue
            good, bad = token == right[place], before == right[place]
            count["repairs" if good else "breaks" if bad else "others"] += 1

    return on_draft


def keep_settings(output: Path, settings: dict[str, Any]) -> None:
    """Note them, or raise SystemExit where the runs in `output` were made with others."""
    path = output / "settings.json"
    now = json.loads(json.dumps(settings))
    if path.exists() and json.loads(path.read_text()) != now:
        raise SystemExit(f"{output} holds runs with other settings, see {path}: use another folder")
    path.write_text(json.dumps(now, indent=1) + "\n")


def cell(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A finished run; "base" is what the arms start from, "selection" it on other problems."""
    path = options.output / f"{arm}-{seed}.json"
    folder = options.output / f"{arm}-{seed}"
    result: dict[str, Any] = {"arm": arm, "seed": seed, "decoded": []}
    if path.exists():
        result = json.loads(path.read_text())
    elif arm in ARMS:
        result |= train(arm, seed, options, folder)
    missing = MODES.keys() - {row["mode"] for row in result["decoded"]}
    if missing:
        adapter = str(folder / "adapter") if arm in ARMS else None
        problems = SELECTED if arm == "selection" else range(options.n)
        result["decoded"] += decode(options, adapter, problems, missing)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(result))
        unfinished.replace(path)
    return result


def values(cells: list[dict[str, Any]], arm: str, task: str, mode: str, metric: str) -> list[float]:
    """One value per seed."""
    return [
        row[metric]
        for found in cells
        if found["arm"] == arm
        for row in found["decoded"]
        if (row["task"], row["mode"]) == (task, mode)
    ]


def interval(sample: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval over seeds; NaN where there is one seed."""
    mean, many = statistics.mean(sample), len(sample)
    if many < 2:
        return mean, math.nan
    return mean, T95[many] * statistics.stdev(sample) / math.sqrt(many)


def shown(sample: list[float], metric: str, signed: bool = False) -> str:
    scale, digits = (100, 1) if metric == "accuracy" else (1, 2)
    mean, half = (scale * value for value in interval(sample))
    text = f"{mean:{'+' if signed else ''}.{digits}f}"
    return text if math.isnan(half) else f"{text} ± {half:.{digits}f}"


def places(cells: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Tasks and modes that were decoded, in order."""
    return [(row["task"], row["mode"]) for row in cells[0]["decoded"]]


def tables(cells: list[dict[str, Any]]) -> str:
    """Markdown: a row per task, mode and arm, then the differences to self-generated T2T."""
    metrics = (*METRICS, *(f"{kind}_per_100_tokens" for kind in KINDS))
    columns = ["exact, %", "E/100tok", "tokens/forward", *(f"{kind}/100tok" for kind in KINDS)]
    lines = [_head("T2T", columns)]
    for (task, mode), arm in itertools.product(places(cells), ("base", *ARMS)):
        cols = [shown(values(cells, arm, task, mode, name), name) for name in metrics]
        lines.append(f"| `{task}` | {mode} | {arm} | " + " | ".join(cols) + " |")
    lines += ["", _head("self minus", columns), *_differences(cells, metrics)]
    return "\n".join(lines)


def _head(third: str, columns: Sequence[str]) -> str:
    names = ("task", "mode", third, *columns)
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def _differences(cells: list[dict[str, Any]], metrics: Sequence[str]) -> list[str]:
    lines = []
    for (task, mode), other in itertools.product(places(cells), ("base", "none", "random")):
        cols = []
        for metric in metrics:
            own = values(cells, "self", task, mode, metric)
            theirs = values(cells, other, task, mode, metric)
            if other == "base":  # one model, whatever the seed of an adaptation
                theirs *= len(own)
            pairs = zip(own, theirs, strict=True)
            cols.append(shown([mine - its for mine, its in pairs], metric, signed=True))
        lines.append(f"| `{task}` | {mode} | {other} | " + " | ".join(cols) + " |")
    return lines


def figure(cells: list[dict[str, Any]], path: Path) -> None:
    """Accuracy and edits per task and mode: a point per seed, a line at the mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    looks = {"base": ("#888888", "x"), "none": ("#0072B2", "s"), "random": ("#D55E00", "^")}
    looks["self"] = ("#009E73", "o")
    drawing, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    titles = ("exact answers, %", "edits per 100 tokens")
    for axis, metric, title in zip(axes, METRICS, titles, strict=False):
        scale = 100 if metric == "accuracy" else 1
        for shift, (arm, (colour, marker)) in enumerate(looks.items()):
            label = "checkpoint as it is" if arm == "base" else f"T2T {arm}"
            for place, (task, mode) in enumerate(places(cells)):
                sample = [scale * value for value in values(cells, arm, task, mode, metric)]
                x = place + 0.18 * (shift - 1.5)
                axis.plot([x] * len(sample), sample, marker, color=colour, markersize=5)
                mean = [statistics.mean(sample)] * 2
                line = label if not place else None
                axis.plot([x - 0.08, x + 0.08], mean, color=colour, linewidth=2, label=line)
        names = [
            textwrap.fill(task.replace("_", " "), 14) + "\n" + mode.replace(", ", ",\n")
            for task, mode in places(cells)
        ]
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set_title(title)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_ylim(bottom=0)
    axes[0].legend(fontsize=8, loc="best")
    for kind in ("png", "svg"):
        drawing.savefig(path.with_suffix(f".{kind}"), dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoint", default="build/tiny/checkpoint")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rows", type=int, default=RUN["batch_size"], help="per step")
    parser.add_argument("--n", type=int, default=500, help="held-out problems per task")
    parser.add_argument("--over-edit", action="store_true", help="from a base that edits a lot")
    parser.add_argument("--save", type=Path, metavar="DIR", help="the runs as JSON, and the figure")
    options = parser.parse_args()
    name = "study_overedit" if options.over_edit else "study"
    if options.n > SELECTED.start:
        parser.error(f"--n {options.n}: problems from {SELECTED.start} on chose the base")
    if options.seeds not in {1, *T95}:
        parser.error(f"--seeds {options.seeds}: intervals are there for 1 to {max(T95)}")
    run = options.run = RUN | {"batch_size": options.rows}
    options.tasks, options.data = TASKS, DATA
    settings = {"steps": options.steps, "edit": EDIT, "run": run, "n": options.n}
    if options.over_edit:
        options.tasks, options.data = edits_arms.TASKS, RECIPE["data"]
        run["max_length"] = edits_arms.LENGTH
        settings["base"] = RECIPE
    settings["data"] = options.data
    weights = (Path(options.checkpoint) / "model.safetensors").read_bytes()
    settings["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    with locked_folder(options.output):
        keep_settings(options.output, settings)
        if options.over_edit:
            options.checkpoint = str(train_base(options.checkpoint, options.output / "base"))
        cells = [cell(arm, 0, options) for arm in ("base", "selection")[: 1 + options.over_edit]]
        for seed, arm in itertools.product(range(options.seeds), ARMS):
            cells.append(cell(arm, seed, options))
            print(f"{arm}-{seed} done", flush=True)
    print(tables(cells))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        saved = {"machine": machine(), "settings": settings, "cells": cells}
        (options.save / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n")
        figure(cells, options.save / name)


if __name__ == "__main__":
    main()
