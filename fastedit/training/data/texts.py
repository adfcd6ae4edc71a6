"""Training data as text: files of JSON Lines and procedural tasks, one example after another."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastedit.files.jsonl import (
    UNREADABLE,
    BadLines,
    check_kind,
    numbered,
    parse,
    place,
    read_lines,
)
from fastedit.training.data.lines import Form, Part, parts_of
from fastedit.training.data.problems import TASK_PREFIX, parse_task


@dataclass(frozen=True)
class Example:
    """One line or problem."""

    index: int  # its place in the data; does not change when other lines are skipped
    where: str  # "source:number" of the line or problem, from 1
    parts: list[Part]
    special_tokens: bool = False  # the tokenizer adds its own to the first part


def read_examples(
    sources: Sequence[str | os.PathLike[str]],
    tokenizer: Any,
    bad: BadLines,
    *,
    raw: bool = False,
    prompt_field: str = "prompt",
    completion_field: str = "completion",
    ignore_fields: Collection[str] | None = None,
) -> Iterator[Example]:
    """The examples of files and tasks (`task:NAME,option=value,...`), one after another.

    ignore_fields  keys of lines that may be left unread
    raw  a prompt that is a text stays as it is; otherwise it becomes a user's message where the
         tokenizer has a chat template, as in `fastedit generate`

    What is wrong with a line goes to `bad`. Raises OSError, and ValueError for an unknown task.
    """
    form = Form(tokenizer, raw, prompt_field, completion_field, frozenset(ignore_fields or ()))
    first = 0
    for source in [os.fspath(source) for source in sources]:
        if source.startswith(TASK_PREFIX):
            asked = parse_task(source)
            for number, problem in enumerate(asked.problems(), start=1):
                parts = asked.parts(problem, tokenizer, raw)
                yield Example(first + number - 1, f"{source}:{number}", parts)
            first += asked.examples
            continue
        lines = read_lines(source)
        for number, line in numbered(lines):
            where = place(source, number)
            try:
                parts, special = parts_of(parse(line), form)
            except UNREADABLE as error:
                bad.add(where, error)
            else:
                yield Example(first + number - 1, where, parts, special)
        first += len(lines)


def check_sources(sources: Sequence[str | os.PathLike[str]]) -> None:
    """Raises FileNotFoundError for a file that is not there, OSError for one that cannot be read,
    DataError for one of another kind, and ValueError for a wrong task source.

    Of a pipe, which can be read but once, nothing is read here.
    """
    for source in [os.fspath(source) for source in sources]:
        if source.startswith(TASK_PREFIX):
            parse_task(source)
        elif not Path(source).exists() or Path(source).is_dir():
            raise FileNotFoundError(f"there is no data file {source}")
        elif Path(source).is_file():
            check_kind(source)


def held_out_examples(
    source: str, tokenizer: Any, count: int, *, raw: bool = False
) -> list[Example]:
    """The first `count` held-out problems of a task source, which training never sees."""
    asked = parse_task(source)
    return [
        Example(number, f"{source}:{number + 1}, held out", asked.parts(problem, tokenizer, raw))
        for number, problem in enumerate(asked.task.test_set(count))
    ]
