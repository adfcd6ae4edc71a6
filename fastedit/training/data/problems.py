"""Problems of a task as training data: `task:chain_sum,examples=2000,seed=3,min_terms=3`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from fastedit.chats.messages import as_chat
from fastedit.chats.template import render
from fastedit.files.jsonl import as_line
from fastedit.tasks import Problem, Task, get_task
from fastedit.training.data.lines import Part

TASK_PREFIX = "task:"


class TaskSource(NamedTuple):
    """Problems of a task as data. `raw`: questions stay texts; None: as the run says."""

    task: Task
    examples: int
    seed: int
    raw: bool | None

    def problems(self) -> Iterator[Problem]:
        return itertools.islice(self.task.training(seed=self.seed), self.examples)

    def parts(self, problem: Problem, tokenizer: Any, raw: bool) -> list[Part]:
        """Question and solution; `raw` is that of the run."""
        prompt = problem.question
        if not (raw if self.raw is None else self.raw):
            prompt = render(as_chat(self.task.messages(prompt)), tokenizer)
        return [Part(prompt, False), Part(problem.solution, True)]


def parse_task(source: str) -> TaskSource:
    """`task:chain_sum,examples=2000,seed=3,min_terms=3`: a task, and which problems of it.

    examples (10000) and seed (0) say which; raw is that of `read_examples`, of this source alone;
    other options are those of the task.
    """
    name, *pairs = source.removeprefix(TASK_PREFIX).split(",")
    options: dict[str, Any] = {"examples": 10_000, "seed": 0, "raw": None}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            options[key] = json.loads(value)
        except ValueError:
            raise ValueError(f"{source}: {pair!r} must be option=number") from None
    examples, seed, raw = (options.pop(key) for key in ("examples", "seed", "raw"))
    for key, given, least in (("examples", examples, 1), ("seed", seed, 0)):
        if type(given) is not int or given < least:
            raise ValueError(f"{source}: {key} must be an integer of at least {least}")
    if raw not in (None, True, False):
        raise ValueError(f"{source}: raw must be true or false")
    names = get_task(name).option_names()
    unknown = [key for key in options if key not in names]
    if unknown:
        known = ", ".join(["examples", "seed", "raw", *names])
        raise ValueError(f"{source}: unknown option {unknown[0]!r}; known: {known}")
    try:
        return TaskSource(get_task(name, **options), examples, seed, raw)
    except (TypeError, AssertionError) as error:  # reasoning-gym's own checks
        raise ValueError(f"{source}: {as_line(error)}") from None
