"""The base of `study.py --over-edit`: a model that meets two right wordings of every line.

The checkpoint of the study hardly edits: a question of its tasks has one right solution, so it is
sure of what it writes. In language a thing can be said in several ways, drafts mix them, and an
editor rewrites one right wording into another. Here every line of a solution is written in one of
two ways, by a coin, and all weights train on from the checkpoint on such solutions with M2T and
random T2T, the mixture and the defaults of `fastedit train --t2t random`. The wordings of a line
have the same tokens in another order, and leave the answer as it is.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXAMPLES, SEED = 4000, 9  # per task, and of their stream
RECIPE: dict[str, Any] = {
    "steps": 150,
    "batch_size": 16,
    "max_length": 128,
    "lora_rank": 0,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "eval_examples": 0,
    "edit": {"t2t": "random", "noise": "uniform_block(0,1)"},
}
SELECTED = range(500, 600)  # held-out problems of each task that the study does not report
# "02 bees * 06 = 012 -> 012" or "06 * 02 bees = 012 -> 012"; "+27 = 527" or "527 = +27"
_LINES = (
    (re.compile(r"(\d+ \D+) \* (\d+)(?= = )"), r"\2 * \1"),
    (re.compile(r"([+-]\d+) = (\d+)$"), r"\2 = \1"),
)


def wordings(line: str) -> tuple[str, str]:
    """A line of a worked solution as the task writes it, and the other way; #### has no other."""
    for pattern, other in _LINES:
        if pattern.match(line):
            return line, pattern.sub(other, line)
    return line, line


def reworded(solution: str, coin: random.Random) -> str:
    """The solution with every line in one of its wordings."""
    return "\n".join(coin.choice(wordings(line)) for line in solution.split("\n"))


def write_data(tasks: Sequence[str], folder: Path) -> tuple[str, ...]:
    """A file of JSON Lines per task, EXAMPLES problems that are not held out; returns their paths.

    A file that is there stays.
    """
    from fastedit.tasks import get_task

    paths = [folder / f"{name}.jsonl" for name in tasks]
    for name, path in zip(tasks, paths, strict=True):
        if path.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        lines = []
        for problem in itertools.islice(get_task(name).training(SEED), EXAMPLES):
            text = reworded(problem.solution, random.Random(problem.question))
            lines.append(json.dumps({"prompt": problem.question, "completion": text}) + "\n")
        unfinished = path.with_suffix(".part")
        unfinished.write_text("".join(lines))
        unfinished.replace(path)
    return tuple(map(str, paths))


def train_base(checkpoint: str, data: Sequence[str], folder: Path) -> Path:
    """The checkpoint of the base in `folder`; it is trained, or trained further, where missing."""
    from fastedit.training.runs.run import run
    from fastedit.training.runs.settings import RunOptions

    result = folder / "checkpoint"
    if not result.exists():
        options = {"checkpoint": checkpoint, "data": tuple(data), "output": str(folder)}
        options |= {"save_every": 25, **RECIPE}
        run(RunOptions.from_mapping(options), resume=folder.exists())
    return result
