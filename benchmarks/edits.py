"""Editors that insert and delete: what are they worth at an eighth of the steps?

    PYTHONPATH=. python benchmarks/edits.py --bases build/edits/bases --output build/edits/study
        [--seeds 3] [--steps N] [--save DIR]

Two bases, which `make bases` trains by masks alone, are trained further on two tasks whose answers
differ in length: by masks, by T2T that replaces, and by edits (InDel for the block-causal one,
ME-DLM for full attention), for as many steps each. Then every arm decodes the same held-out
problems within budgets of 1/1, 1/2, 1/4 and 1/8 of the forwards; an editor with some operations
forbidden is an arm of its own. `OUTPUT/BASE-TRAINING-SEED` is a run, and `OUTPUT/cells.jsonl` holds
what was decoded, so a study that was stopped goes on where it was. `--save` writes all of it as
`edits.json`, and the figure as PNG and SVG.

A budget of 1/s is what masks alone take with s fills per forward. All forwards count alike: those
that fill, those that edit and those that only renew keys and values. Which of its settings an arm
has at a budget is chosen on problems that are not reported, with the first seed: the most exact one
that is within it. Intervals are Student's t over seeds, which vary the training; the bases and the
problems are the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import machine
from correction_arms import Part
from edits_arms import (
    ARMS,
    BASES,
    CHOICE,
    DATA,
    LENGTH,
    REPORTED,
    RUN,
    SHARES,
    STEPS,
    TASKS,
    TRAININGS,
    choices,
    policy,
    register_rules,
)
from edits_effects import KINDS, Watched, no_counts
from edits_report import differences, effects, figure, summary, table
from policies import measured
from study import T95, keep_settings

from fastedit.files.locks import locked_folder
from fastedit.models.identity import identity

BATCH = 32


def train(base: str, name: str, seed: int, options: argparse.Namespace) -> Path:
    """The checkpoint of a training; it is trained, or trained further, where it is not there."""
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions
    from recipes.tiny.model import build_optimizer

    before, checkpoint = None, options.bases / base / "checkpoint"
    for number, stage in enumerate(TRAININGS[base][name]):
        folder = options.output / f"{base}-{name}-{seed}" / f"stage-{number}"
        values: dict[str, Any] = {"checkpoint": str(checkpoint), "data": DATA, **RUN}
        values |= {
            "output": str(folder),
            "steps": round(stage.share * (options.steps or STEPS[base])),
        }
        values |= {"seed": seed, "edit": stage.edit, "device": "cpu"}
        if stage.refinement is not None:  # the head for the next token goes on, too
            values["refinement"] = stage.refinement | ({"start": str(before)} if before else {})
        before, checkpoint = folder, folder / "checkpoint"
        if not checkpoint.exists():
            torch.set_flush_denormal(True)
            asked = RunOptions.from_mapping(values)
            run(asked, resume=folder.exists(), optimizer=build_optimizer)
    return checkpoint


def decoder_of(checkpoint: Path) -> Any:
    """With a head for the next token, where a rule of full attention needs one: an untrained one
    where no run has made one, which the arms without inserts never ask."""
    from fastedit import Decoder
    from fastedit.heads import NextTokenHead

    trained = checkpoint.parent / "head"
    head = trained if trained.exists() else None
    decoder = Decoder.from_pretrained(checkpoint, head=head, device="cpu")
    if head or decoder.family.attention != "full":
        return decoder
    return Decoder(decoder.model, decoder.tokenizer, head=NextTokenHead.of(decoder.model))


def decode(
    decoder: Any, task: Any, part: tuple[int, int], asked: Callable[[int], str]
) -> dict[str, Any]:
    """Decode and score problems; asked: the policy for a canvas of so many masks.

    forwards, tokens, edits, deletes, inserts  summed over the answers
    effects  of single edits, see `edits_effects.no_counts`
    drafted  answers that were right when they were first complete
    turns    how often a complete answer became right, or wrong, by what was done in between
    """
    first, n = part
    tokenizer = decoder.tokenizer
    row: dict[str, Any] = {"n": n, "exact": 0, "drafted": 0, "effects": no_counts()}
    row |= dict.fromkeys(("forwards", "tokens", "t2t_edits", "deletes", "inserts"), 0)
    row["turns"] = {kind: {"to_right": 0, "to_wrong": 0} for kind in (*KINDS, "several")}
    followed: dict[int, tuple[Any, Watched]] = {}
    texts: dict[int, str] = {}
    with decoder.engine(max_batch=BATCH) as engine:
        for problem in Part(task, first).test_set(n):
            chat = task.messages(problem.question)
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
            masks = LENGTH - len(prompt)
            right = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
            watched = Watched(
                right, tokenizer.mask_token_id, tokenizer.eos_token_id, row["effects"]
            )
            number = engine.add(chat, drafts=True, policy=asked(masks), max_new_tokens=masks)
            followed[number], texts[number] = (problem, watched), ""
        while not engine.idle:
            for event in engine.step():
                problem, watched = followed[event.request]
                if event.kind == "draft":
                    watched.draft(event)
                elif event.kind == "commit":
                    texts[event.request] += event.text
                    watched.commit(event.ids)
                else:
                    assert event.error is None, event.error
                    add(row, event.stats, watched)
                    row["exact"] += task.score(texts[event.request], problem).exact
    return row | {"accuracy": row["exact"] / n}


def add(row: dict[str, Any], stats: Any, watched: Watched) -> None:
    for name in ("forwards", "tokens", "t2t_edits", "deletes", "inserts"):
        row[name] += getattr(stats, name)
    row["drafted"] += bool(watched.first)
    for kind, right in watched.turns:
        row["turns"][kind]["to_right" if right else "to_wrong"] += 1


class Study:
    """What has been measured, and how to measure what is missing."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.path = options, options.output / "cells.jsonl"
        self.known = measured(self.path)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.known.values()))
        self.decoders: dict[Path, Any] = {}

    def row(
        self,
        part: str,
        base: str,
        arm: str,
        task: str,
        seed: int,
        share: int,
        setting: int,
    ) -> dict[str, Any]:
        from fastedit.tasks import get_task

        # Where the masks say nothing, settings are the same for every budget.
        told = policy(base, arm, share, setting, LENGTH)
        asked = f"{part} {base} {arm} {task} {seed} {told}"
        if base == "full_attention":
            asked += f" 1/{share}"
        if asked not in self.known:
            folder = train(base, ARMS[base][arm].training, seed, self.options)
            if folder not in self.decoders:
                self.decoders[folder] = decoder_of(folder)
            found = decode(
                self.decoders[folder],
                get_task(task),
                CHOICE if part == "choice" else REPORTED,
                lambda masks: policy(base, arm, share, setting, masks),
            )
            row = {"asked": asked, "part": part, "base": base, "arm": arm, "task": task}
            self.known[asked] = row | {"seed": seed, "share": share, "policy": told, **found}
            with self.path.open("a") as file:
                file.write(json.dumps(self.known[asked]) + "\n")
            print(
                f"{asked}: {found['accuracy']:.3f} in {found['forwards'] / found['n']:.2f}",
                flush=True,
            )
        return self.known[asked] | {"share": share}

    def chosen(self, base: str, arm: str, task: str, share: int) -> int:
        """The setting that is most exact within the budget; of equal ones, that of fewest forwards.

        Where none is within it, that of fewest forwards; the table says what they are.
        """
        plain = SHARES.index(share) if base == "block_causal" else 0  # so many fills per forward
        known = self.row("choice", base, "masks alone", task, 0, share, plain)["forwards"]
        rows = [
            self.row("choice", base, arm, task, 0, share, number)
            for number in range(choices(base, arm, share))
        ]
        within = [number for number, row in enumerate(rows) if row["forwards"] <= known]
        if not within:
            return min(range(len(rows)), key=lambda number: rows[number]["forwards"])
        return max(within, key=lambda number: (rows[number]["exact"], -rows[number]["forwards"]))

    def reported(self) -> list[dict[str, Any]]:
        """A row per base, arm, task, budget and seed."""
        rows = []
        for base, task in itertools.product(self.options.base or BASES, TASKS):
            for arm, share in itertools.product(ARMS[base], SHARES):
                setting = self.chosen(base, arm, task, share)
                for seed in range(self.options.seeds):
                    rows.append(self.row("reported", base, arm, task, seed, share, setting))
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bases", type=Path, required=True, help="of `make bases`")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base", choices=BASES, action="append", help="one of them; repeatable")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of every training, in place of STEPS")
    parser.add_argument("--save", type=Path, metavar="DIR", help="edits.json and the figure")
    options = parser.parse_args()
    register_rules()
    if options.seeds not in {1, *T95}:
        parser.error(f"--seeds {options.seeds}: intervals are there for 1 to {max(T95)}")
    weights = {
        base: identity(str(options.bases / base / "checkpoint"))["weights"]
        for base in options.base or BASES
    }
    settings = {"steps": options.steps or STEPS, "run": RUN, "data": DATA, "trainings": TRAININGS}
    settings |= {"choice": CHOICE, "reported": REPORTED, "weights": weights}
    options.output.mkdir(parents=True, exist_ok=True)
    with locked_folder(options.output):
        keep_settings(options.output, settings)
        study = Study(options)
        rows = study.reported()
    lines, gains = summary(rows), differences(rows)
    for base, task in dict.fromkeys((line["base"], line["task"]) for line in lines):
        print(f"\n{base}, {task}: exact answers, %, at forwards per answer\n")
        print(table(lines, base, task))
    print("\n" + "\n".join(map(json.dumps, [*gains, *effects(rows)])))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        saved = {"machine": machine(), "settings": settings, "differences": gains}
        saved |= {"summary": lines, "effects": effects(rows), "rows": [*study.known.values()]}
        (options.save / "edits.json").write_text(json.dumps(saved, indent=1) + "\n")
        figure(lines, options.save)


if __name__ == "__main__":
    main()
