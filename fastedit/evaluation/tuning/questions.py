"""What is asked, and which answers are right: problems of a task, or lines of a file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from fastedit.files.jsonl import UNREADABLE, BadLines, numbered, parse, place, read_lines
from fastedit.files.keys import refuse_unread
from fastedit.files.records import CHAT_FIELDS, asked, chat_of, holds_chat

if TYPE_CHECKING:
    from fastedit.tasks import Problem, Task

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


class Question(NamedTuple):
    """A text or chat, the answer it should have, and its place in the data."""

    prompt: Any
    answer: str
    where: str
    problem: Problem | None = None  # of a task, whose scorer it is for


class Questions(NamedTuple):
    """right(text, question): whether a generated text answers it. raw: texts are no messages."""

    source: str
    items: list[Question]
    right: Callable[[str, Question], bool]
    scorer: str
    raw: bool = False

    def digest(self) -> str:
        """Differs where anything else is asked, or would be right."""
        asked_for = [[item.prompt, item.answer] for item in self.items]
        text = json.dumps([asked_for, self.scorer, self.raw], sort_keys=True, ensure_ascii=False)
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
        f"task:{task.name}",
        items,
        lambda text, question: task.score(text, question.problem).exact,  # type: ignore[arg-type]
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

    scorer  of `SCORERS`
    raw     a prompt that is a text stays as it is, without the chat template

    What is wrong with a line goes to `bad`. Raises OSError, DataError for a file that is no JSON
    Lines, and ValueError for an unknown scorer.
    """
    if scorer not in SCORERS:
        raise ValueError(f"scorer must be one of {', '.join(SCORERS)}; got {scorer!r}")
    right = SCORERS[scorer]
    items = []
    for number, line in numbered(read_lines(source)):
        where = place(source, number)
        try:
            record = parse(line)
            read = {prompt_field, answer_field, *CHAT_FIELDS, *ignore_fields}
            refuse_unread(record, read, "; or pass --ignore-fields")
            question = Question(*_asked(record, prompt_field, answer_field, raw), where)
            if scorer == "number" and _last_number(question.answer) is None:
                raise ValueError(f"`{answer_field}` holds no number: {question.answer[:60]!r}")
            items.append(question)
        except UNREADABLE as error:
            bad.add(where, error)
    return Questions(
        os.fspath(source), items, lambda text, item: right(text, item.answer), scorer, raw
    )


def _asked(
    record: dict[str, Any], prompt_field: str, answer_field: str, raw: bool
) -> tuple[Any, str]:
    if (prompt_field in record) == holds_chat(record):
        raise ValueError(
            f"needs one of `{prompt_field}` and `messages`; --prompt-field names another key"
        )
    prompt = asked(record, prompt_field, raw) if prompt_field in record else chat_of(record)
    answer = record.get(answer_field)
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            f"`{answer_field}` must be the expected answer, a text or a number; got "
            f"{str(answer)[:60]!r}: --answer-field names another key"
        )
    return prompt, answer


def _same(text: str, answer: str) -> bool:
    return text.strip() == answer.strip()


def _contains(text: str, answer: str) -> bool:
    return answer.strip() in text


def _same_number(text: str, answer: str) -> bool:
    return _last_number(text) == _last_number(answer)


def _last_number(text: str) -> Decimal | None:
    """The last number in a text, thousands separated by commas or not."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


# Whether a generated text is right: the answer but for space around it, a text that holds the
# answer, or one whose last number is that of the answer.
SCORERS: dict[str, Callable[[str, str], bool]] = {
    "exact": _same,
    "contains": _contains,
    "number": _same_number,
}
