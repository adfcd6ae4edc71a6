"""What is asked, and which answers are right: problems of a task, or lines of a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from fastedit.evaluation.scorers import (
    PYTHON,
    SCORERS,
    ScorerError,
    last_number,
    scorer_of,
    version_of,
)
from fastedit.files.jsonl import UNREADABLE, BadLines, numbered, parse, place, read_lines
from fastedit.files.keys import ANSWERS, refuse_unread
from fastedit.files.records import CHAT_FIELDS, asked, chat_of, holds_chat

if TYPE_CHECKING:
    from fastedit.tasks import Problem, Score, Task

TASK_PREFIX = "task:"
__all__ = ["SCORERS", "Question", "Questions", "of_file", "of_task"]


class Question(NamedTuple):
    """A text or chat, the answer it should have, and its place in the data."""

    prompt: Any
    answer: Any  # a text, but for a scorer of the user's
    where: str
    problem: Problem | None = None  # of a task, whose scorer it is for


class Questions(NamedTuple):
    """score(text, question): how a generated text answers it. raw: texts are no messages."""

    source: str
    items: list[Question]
    score: Callable[[str, Question], Score]
    scorer: str
    raw: bool = False

    def right(self, text: str, question: Question) -> bool:
        """Whether a generated text answers it. Raises what `score` does."""
        return self.score(text, question).exact

    def named(self) -> dict[str, str]:
        """What they are, for JSON."""
        task = self.source.removeprefix(TASK_PREFIX)
        if task != self.source:
            return {"task": task}
        return {"data": self.source, "scorer": self.scorer}

    def digest(self) -> str:
        """Differs where anything else is asked, or would be right."""
        return self._digest([item.answer for item in self.items], version_of(self.scorer))

    def asked(self) -> str:
        """A digest that differs where anything else is asked, whatever would be right."""
        return self._digest()

    def _digest(self, *more: Any) -> str:
        told = [[item.prompt for item in self.items], self.raw, *more]
        text = json.dumps(told, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def of_task(task: Task, n: int) -> Questions:
    """The first n held-out problems of a task, by the task's own scorer. Raises ValueError."""
    items = [
        Question(
            task.messages(problem.question), problem.solution, f"{task.name}:{number}", problem
        )
        for number, problem in enumerate(task.test_set(n), start=1)
    ]
    return Questions(
        f"{TASK_PREFIX}{task.name}",
        items,
        lambda text, question: task.score(text, question.problem),  # type: ignore[arg-type]
        task.name,
    )


def of_file(
    source: str | os.PathLike[str],
    bad: BadLines,
    *,
    scorer: str = "exact",
    answer_field: str = "answer",
    prompt_field: str = "prompt",
    raw: bool = False,
    ignore_fields: Collection[str] = (),
) -> Questions:
    """Lines with `prompt` or `messages`, and the answer that is expected, a text or a number.

    scorer  of `SCORERS`, or "python:module:function", see `scorer_of`; such a function gets the
            answer as it stands in the line, which may then be of any kind
    raw     a prompt that is a text stays as it is, without the chat template

    What is wrong with a line goes to `bad`. Raises OSError, DataError for a file that is no JSON
    Lines, ValueError for an unknown scorer, and ScorerError for a function that fails on an answer
    or on an empty text.
    """
    score, own = scorer_of(scorer), scorer.startswith(PYTHON)
    items = []
    for number, line in numbered(read_lines(source)):
        where = place(source, number)
        try:
            # A key that is null is one that is not there, as in files of requests.
            record = {name: value for name, value in parse(line).items() if value is not None}
            read = {prompt_field, answer_field, *CHAT_FIELDS, *ANSWERS, *ignore_fields}
            refuse_unread(record, read, "; or pass --ignore-fields")
            question = Question(*_asked(record, prompt_field, answer_field, raw, own), where)
            if scorer == "number" and last_number(question.answer) is None:
                raise ValueError(f"`{answer_field}` holds no number: {question.answer[:60]!r}")
            if own:  # a text may be empty, or the answer: better known before anything is decoded
                for text, what in (("", "no text"), (str(question.answer), "the answer itself")):
                    _try(score, text, question.answer, what)
            items.append(question)
        except ScorerError as error:  # mending lines is no remedy
            raise ScorerError(f"{where}: {error}") from error
        except UNREADABLE as error:
            bad.add(where, error)
    return Questions(
        os.fspath(source), items, lambda text, item: score(text, item.answer), scorer, raw
    )


def _try(score: Callable[[str, Any], Score], text: str, answer: Any, what: str) -> None:
    try:
        score(text, answer)
    except ScorerError as error:
        raise ScorerError(f"{error}, a trial with {what} before anything is decoded") from error


def _asked(
    record: dict[str, Any], prompt_field: str, answer_field: str, raw: bool, own: bool
) -> tuple[Any, Any]:
    """Prompt and answer; the scorer is the user's `own`, which takes any answer."""
    if (prompt_field in record) == holds_chat(record):
        raise ValueError(
            f"needs one of `{prompt_field}` and `messages`; --prompt-field names another key"
        )
    prompt = asked(record, prompt_field, raw) if prompt_field in record else chat_of(record)
    if answer_field not in record:
        raise ValueError(
            f"has no `{answer_field}`, the expected answer: --answer-field names another key"
        )
    answer = record[answer_field]
    if own and answer is not None:
        return prompt, answer
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"`{answer_field}` must be the expected answer, a text or a number; got "
            f"{str(answer)[:60]!r}: --answer-field names another key"
        )
    return prompt, answer
