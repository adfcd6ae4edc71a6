"""Small real tasks with exact scorers: problems, worked solutions, extraction, a fixed split."""

from __future__ import annotations

from typing import Any

from .chain_sum import ChainSum
from .leg_counting import LegCounting
from .task import Problem, Score, Task, is_held_out
from .text_repair import TextRepair
from .word_sequence_reversal import WordSequenceReversal

_TASKS: dict[str, type[Task]] = {
    task.name: task for task in (ChainSum, LegCounting, TextRepair, WordSequenceReversal)
}


def task_names() -> list[str]:
    """Names that `get_task` knows."""
    return list(_TASKS)


def get_task(name: str, **options: Any) -> Task:
    """The task called `name`; `options` override the difficulty, by reasoning-gym's own names.

    Raises ValueError for an unknown name, ImportError without reasoning-gym.
    """
    if name not in _TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(_TASKS)}")
    return _TASKS[name](**options)


__all__ = ["Problem", "Score", "Task", "get_task", "is_held_out", "task_names"]
