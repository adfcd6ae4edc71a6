"""Questions that a command asks: of a task, or lines of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastedit.cli.errors import UserError, one_line
from fastedit.cli.options import option
from fastedit.files.jsonl import BadLines
from fastedit.tasks import get_task, task_names

if TYPE_CHECKING:
    from fastedit.evaluation.answers import Record
    from fastedit.evaluation.tuning.questions import Questions

TASK_QUESTIONS = 200
_PANEL = "Questions"

Task = Annotated[str | None, option(f"{' or '.join(task_names())}: held-out problems.", _PANEL)]
Data = Annotated[
    str | None,
    option("JSON Lines: `prompt` or `messages`, and `answer`.", _PANEL, metavar="FILE"),
]
Number = Annotated[
    int | None,
    typer.Option(
        "--n",
        min=1,
        help=f"The first n; without it {TASK_QUESTIONS} of a task, all lines.",
        rich_help_panel=_PANEL,
    ),
]
Scorer = Annotated[
    str | None,
    option(
        "exact (default): the answer itself; contains: a text that holds it; number: its last "
        "number; or a function of (text, answer), python:module:function.",
        _PANEL,
        metavar="NAME",
    ),
]
AnswerField = Annotated[str | None, option("Where answers are in the data: answer.", _PANEL)]
PromptField = Annotated[str | None, option("Where prompts are: prompt.", _PANEL)]
Raw = Annotated[bool, option("No chat template around prompts.", _PANEL, "--raw")]
OnBadLine = Annotated[str | None, option("What a bad line does.", _PANEL, metavar="stop|skip")]
IgnoreFields = Annotated[
    list[str] | None, option("Keys of lines that may be left unread; repeatable.", _PANEL)
]


def source_line(questions: Questions) -> str:
    """What was asked, and what was right."""
    named, many = questions.named(), len(questions.items)
    if "task" in named:
        return f"{named['task']}, {many} problems"
    return f"{named['data']}, {many} questions, scorer {named['scorer']}"


def better_scorer(questions: Questions, record: Record) -> str | None:
    """Where most answers are wrong: that another scorer calls many more of them right, if so."""
    from fastedit.evaluation.answers import right_by
    from fastedit.evaluation.scorers import SCORERS, is_number

    if questions.scorer not in SCORERS:  # of a task, or of the user's
        return None
    own, many = right_by(questions.scorer, questions, record)
    # A text that holds a number may hold it in another one.
    name = "number" if all(is_number(item.answer) for item in questions.items) else "contains"
    right, _ = right_by(name, questions, record)
    if 2 * own >= many or 10 * (right - own) < many:
        return None
    return f"--scorer {name} would call {right} of the {many} answers right, not {own}"


def read_questions(
    task: str | None, data: str | None, n: int | None, on_bad_line: str | None, **of_data: Any
) -> tuple[Questions, BadLines]:
    """Those of one of `task` and `data`, and what is wrong with lines that are to be skipped.

    of_data  scorer, answer_field, prompt_field, raw and ignore_fields; those that were not given
             are None, False or empty
    """
    from fastedit.evaluation.tuning.questions import of_file, of_task

    given = {name: value for name, value in of_data.items() if value}
    if data is None:
        for name in [*given, *(["on_bad_line"] if on_bad_line else [])]:
            why = ": a task has its own" if name == "scorer" else ""
            raise UserError(f"--{name.replace('_', '-')} goes with --data{why}")
    with one_line(ValueError, ImportError, OSError):
        bad = BadLines(on_bad_line or "stop")
        if data is None:
            return of_task(get_task(task or ""), n or TASK_QUESTIONS), bad
        questions = of_file(data, bad, **given)
        questions = questions._replace(items=questions.items[:n])
        if bad.policy == "stop":
            bad.check()
        if not questions.items:
            bad.check()
            raise ValueError(f"{data} holds no questions")
    return questions, bad
