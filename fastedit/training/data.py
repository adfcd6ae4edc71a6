"""Training data as text: JSON Lines and procedural tasks, each line an example of a few parts.

A line is the first of `{"messages": [...]}` (the assistant's turns are learnt), `{"prompt": ...,
"completion": ...}` (the completion is) and `{"text": ...}` (all of it is) that it has the keys of;
other keys are ignored.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastedit.tasks import Problem, Task, get_task

TASK_PREFIX = "task:"
SHOWN_ERRORS = 10


class DataError(ValueError):
    """What is wrong with the data; one line per finding, with file and line number."""


class Part(NamedTuple):
    """A text that is tokenised by itself, as generation appends tokens to those of a prompt."""

    text: str
    response: bool  # learnt; otherwise only read


@dataclass(frozen=True)
class Example:
    """One line or problem."""

    index: int  # its place in the data; does not change when other lines are skipped
    where: str  # "source:number" of the line or problem, from 1
    parts: list[Part]
    special_tokens: bool = False  # the tokenizer adds its own to the first part


class BadLines:
    """Collects what is wrong with the data; `check` then raises or warns."""

    def __init__(self, policy: str = "stop") -> None:
        if policy not in ("stop", "skip"):
            raise ValueError(f"on_bad_line must be 'stop' or 'skip'; got {policy!r}")
        self.policy = policy
        self.found: list[str] = []

    def add(self, where: str, reason: Exception | str) -> None:
        self.found.append(f"{where}: {' '.join(str(reason).split())}")

    def check(self) -> None:
        """Raises DataError with the first findings, or, where they are to be skipped, warns."""
        if not self.found:
            return
        more = len(self.found) - SHOWN_ERRORS
        lines = self.found[:SHOWN_ERRORS] + ([f"... and {more} more"] if more > 0 else [])
        if self.policy == "skip":
            lines.insert(0, f"skipped {len(self.found)} bad lines of the data")
            warnings.warn("\n  ".join(lines), stacklevel=2)
            return
        advice = "mend or remove these lines, or pass --on-bad-line skip"
        raise DataError("\n".join([*lines, advice]))


def read_examples(
    sources: Sequence[str],
    tokenizer: Any,
    bad: BadLines,
    *,
    raw: bool = False,
    prompt_field: str = "prompt",
    completion_field: str = "completion",
) -> Iterator[Example]:
    """The examples of files and tasks (`task:NAME,option=value,...`), one after another.

    raw  a prompt that is a text stays as it is; otherwise it becomes a user's message where the
         tokenizer has a chat template, as in `fastedit generate`

    What is wrong with a line goes to `bad`. Raises OSError, and ValueError for an unknown task.
    """
    names = (prompt_field, completion_field)
    first = 0
    for source in sources:
        if source.startswith(TASK_PREFIX):
            task, count, seed = parse_task(source)
            problems = itertools.islice(task.training(seed=seed), count)
            for number, problem in enumerate(problems):
                where = f"{source}:{number + 1}"
                yield _problem(first + number, where, task, problem, tokenizer)
            first += count
            continue
        lines = Path(source).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            where = f"{source}:{number + 1}"
            try:
                yield _example(first + number, where, _parse(line), tokenizer, raw, names)
            except (ValueError, RecursionError) as error:
                bad.add(where, error)
        first += len(lines)


def check_sources(sources: Sequence[str]) -> None:
    """Raises FileNotFoundError for a file that is not there, ValueError for a wrong task source."""
    for source in sources:
        if source.startswith(TASK_PREFIX):
            parse_task(source)
        elif not Path(source).exists() or Path(source).is_dir():
            raise FileNotFoundError(f"there is no data file {source}")


def held_out_examples(source: str, tokenizer: Any, count: int) -> list[Example]:
    """The first `count` held-out problems of a task source, which training never sees."""
    task, _, _ = parse_task(source)
    return [
        _problem(number, f"{source}:{number + 1}, held out", task, problem, tokenizer)
        for number, problem in enumerate(task.test_set(count))
    ]


def parse_task(source: str) -> tuple[Task, int, int]:
    """`task:chain_sum,examples=2000,seed=3,min_terms=3` -> (task, examples, seed).

    examples (10000) and seed (0) say which problems; other options are those of the task.
    """
    name, *pairs = source.removeprefix(TASK_PREFIX).split(",")
    options: dict[str, Any] = {"examples": 10_000, "seed": 0}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            options[key] = json.loads(value)
        except ValueError:
            raise ValueError(f"{source}: {pair!r} must be option=number") from None
    examples, seed = options.pop("examples"), options.pop("seed")
    for key, given, least in (("examples", examples, 1), ("seed", seed, 0)):
        if type(given) is not int or given < least:
            raise ValueError(f"{source}: {key} must be an integer of at least {least}")
    names = get_task(name).option_names()
    unknown = [key for key in options if key not in names]
    if unknown:
        known = ", ".join(["examples", "seed", *names])
        raise ValueError(f"{source}: unknown option {unknown[0]!r}; known: {known}")
    try:
        return get_task(name, **options), examples, seed
    except (TypeError, AssertionError) as error:  # reasoning-gym's own checks
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from None


def _problem(index: int, where: str, task: Task, problem: Problem, tokenizer: Any) -> Example:
    prompt = _template(tokenizer, task.messages(problem.question), True)
    parts = [Part(prompt, False), Part(problem.solution, True)]
    return Example(index, where, parts)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
    except UnicodeError:
        raise ValueError("is not valid UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    return value


def _example(
    index: int,
    where: str,
    record: dict[str, Any],
    tokenizer: Any,
    raw: bool,
    names: tuple[str, str],
) -> Example:
    prompt, completion = names
    special = False
    if "messages" in record and "messages" not in names:
        parts = _chat_parts(_messages(record["messages"], "messages"), tokenizer)
    elif completion in record:
        if prompt not in record:
            raise ValueError(f"has `{completion}` but no `{prompt}`")
        asked = record[prompt]
        special = isinstance(asked, str) and (raw or not tokenizer.chat_template)
        head = _text(record, prompt) if special else _prompt(asked, prompt, tokenizer)
        parts = [Part(head, False), Part(_text(record, completion), True)]
    elif "text" in record:
        parts, special = [Part(_text(record, "text"), True)], True
    else:
        raise ValueError(f"needs one of `messages`, `{completion}` (with `{prompt}`) and `text`")
    for part in parts:
        try:
            part.text.encode()
        except UnicodeError:
            raise ValueError("holds a lone surrogate, which is no text") from None
    return Example(index, where, parts, special)


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str) or not record[key]:
        raise ValueError(f"`{key}` must be a text that is not empty")
    return record[key]


def _prompt(value: Any, key: str, tokenizer: Any) -> str:
    """A text as one user message, or messages, up to where the answer begins."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    return _template(tokenizer, _messages(value, key), True)


def _messages(value: Any, key: str) -> list[dict[str, Any]]:
    fine = isinstance(value, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )
    if not fine or not value:
        raise ValueError(f"`{key}` must be a list of objects with the texts `role` and `content`")
    return value


def _chat_parts(messages: list[dict[str, Any]], tokenizer: Any) -> list[Part]:
    """Each assistant turn, with what the template closes it with, is a response."""
    parts: list[Part] = []
    seen = ""
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _template(tokenizer, messages[:number], True)
        after = _template(tokenizer, messages[: number + 1], False)
        if not (before.startswith(seen) and after.startswith(before)):
            raise ValueError(
                f"the chat template does not continue message {number} from its own generation "
                "prompt; give `prompt` and `completion`"
            )
        parts += [Part(before[len(seen) :], False), Part(after[len(before) :], True)]
        seen = after
    if not parts:
        raise ValueError("`messages` has no assistant turn to learn from")
    return parts


def _template(tokenizer: Any, messages: list[dict[str, Any]], answer_follows: bool) -> str:
    if not tokenizer.chat_template:
        raise ValueError("this tokenizer has no chat template; give `prompt` and `completion`")
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer_follows
        )
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise ValueError(f"the chat template fails: {type(error).__name__}: {error}") from error
