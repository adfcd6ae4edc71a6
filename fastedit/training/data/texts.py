"""Training data as text: JSON Lines and procedural tasks, each line an example of a few parts.

A line is the first of `{"messages": [...]}` (the assistant's turns are learnt), `{"prompt": ...,
"completion": ...}` (the completion is) and `{"text": ...}` (all of it is) that it has the keys of.
Other keys are refused, unless they only describe the line (`prompts.keys`).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastedit.prompts.jsonl import BadLines, DataError, check_kind, parse, read_lines
from fastedit.prompts.keys import refuse_unread
from fastedit.prompts.messages import as_chat, is_chat
from fastedit.prompts.records import CHAT_FIELDS, asked, chat_of, holds_chat
from fastedit.prompts.template import has_template, render, render_turns
from fastedit.tasks import Problem, Task, get_task

__all__ = ["BadLines", "DataError", "Example", "Part", "read_examples"]

TASK_PREFIX = "task:"
LEARNT = ("weight", "train", "loss")  # of a message: 1 or true, learnt; 0 or false, only read


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
    form = _Form(tokenizer, raw, prompt_field, completion_field, frozenset(ignore_fields or ()))
    first = 0
    for source in [os.fspath(source) for source in sources]:
        if source.startswith(TASK_PREFIX):
            asked = parse_task(source)
            for number, problem in enumerate(asked.problems()):
                where = f"{source}:{number + 1}"
                yield asked.example(first + number, where, problem, tokenizer, raw)
            first += asked.count
            continue
        lines = read_lines(source)
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            where = f"{source}:{number + 1}"
            try:
                yield _example(first + number, where, parse(line), form)
            except (ValueError, TypeError, RecursionError) as error:
                bad.add(where, error)
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
        asked.example(number, f"{source}:{number + 1}, held out", problem, tokenizer, raw)
        for number, problem in enumerate(asked.task.test_set(count))
    ]


class TaskSource(NamedTuple):
    """Problems of a task as data. `raw`: questions stay texts; None: as the run says."""

    task: Task
    count: int
    seed: int
    raw: bool | None

    def problems(self) -> Iterator[Problem]:
        return itertools.islice(self.task.training(seed=self.seed), self.count)

    def example(self, index: int, where: str, problem: Problem, tokenizer: Any, raw: bool) -> Example:
        """`raw` is that of the run."""
        prompt = problem.question
        if not (raw if self.raw is None else self.raw):
            prompt = render(as_chat(self.task.messages(prompt)), tokenizer)
        return Example(index, where, [Part(prompt, False), Part(problem.solution, True)])


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
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from None


class _Form(NamedTuple):
    """How lines are read."""

    tokenizer: Any
    raw: bool
    prompt: str
    completion: str
    ignored: frozenset[str]


def _example(index: int, where: str, record: dict[str, Any], form: _Form) -> Example:
    prompt, completion = form.prompt, form.completion
    own, special = {prompt, completion}, False
    # A key that is null is one that is not there, as exports of tables have it.
    record = {name: value for name, value in record.items() if value is not None}
    if record.get("add_generation_prompt") is False:  # nothing follows a chat that is learnt
        del record["add_generation_prompt"]
    _check_learnt_line(record, own)
    read = {*own, "text", *CHAT_FIELDS}
    if holds_chat(record) and not own & {"messages", "conversations"}:
        parts = _chat_parts(chat_of(record), form.tokenizer)
    elif completion in record:
        if prompt not in record:
            raise ValueError(f"has `{completion}` but no `{prompt}`")
        question = asked(record, prompt, form.raw)
        special = isinstance(question, str) and (form.raw or not has_template(form.tokenizer))
        if is_chat(record[completion]):
            parts = _chat_parts(_answered(question, record[completion]), form.tokenizer)
        else:
            head = _text(record, prompt) if special else _rendered(question, form.tokenizer)
            parts = [Part(head, False), Part(_text(record, completion), True)]
        read -= {"messages", "conversations"} - own
    elif "text" in record:
        parts, special = [Part(_text(record, "text"), True)], True
        read = {"text"}
    else:
        raise ValueError(f"needs one of `messages`, `{completion}` (with `{prompt}`) and `text`")
    way_out = ", or pass --set ignore_fields=[...] with what may be left out"
    refuse_unread(record, read | form.ignored | set(LEARNT), way_out)
    return Example(index, where, parts, special)


def _check_learnt_line(record: dict[str, Any], own: Collection[str]) -> None:
    """Raises ValueError for a weight of a whole line: every line counts once."""
    for name in LEARNT:
        if name in record and name not in own and record[name] not in (None, 1):
            raise ValueError(
                f"`{name}` = {record[name]!r}: a line counts once; remove it, or the line"
            )


def _text(record: dict[str, Any], key: str) -> str:
    if not isinstance(record[key], str) or not record[key]:
        raise ValueError(f"`{key}` must be a text that is not empty")
    return record[key]


def _answered(question: Any, answer: list[dict[str, Any]]) -> dict[str, Any]:
    """A prompt and the messages that answer it as one chat, of which only the answer is learnt."""
    if isinstance(question, str):
        raise ValueError("its completion is a chat, and so must its prompt be: a list of messages")
    chat = question if isinstance(question, dict) else {"messages": question}
    read = [{**m, "weight": 0} if m.get("role") == "assistant" else m for m in chat["messages"]]
    return {**chat, "messages": [*read, *answer]}


def _rendered(question: Any, tokenizer: Any) -> str:
    """A text as one user's message, or a chat, up to where the answer begins."""
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    return render(as_chat(question), tokenizer)


def _chat_parts(value: Any, tokenizer: Any) -> list[Part]:
    """Each assistant turn that is learnt is a response, with what the template closes it with."""
    messages = value["messages"] if isinstance(value, dict) else value
    learnt = [_is_learnt(number, message) for number, message in enumerate(messages)]
    bare = [{k: v for k, v in message.items() if k not in LEARNT} for message in messages]
    chat = as_chat({**value, "messages": bare} if isinstance(value, dict) else bare)
    if chat.continued:
        raise ValueError("`continue_final_message` is of prompts: turns of `messages` are learnt")
    wanted = [number for number, is_learnt in enumerate(learnt) if is_learnt]
    turns = render_turns(chat, tokenizer, wanted)
    parts = [Part(text, number is not None) for text, number in turns]
    if not any(part.response for part in parts):
        raise ValueError("`messages` has no assistant turn to learn from")
    return parts


def _is_learnt(number: int, message: dict[str, Any]) -> bool:
    """Whether a turn is learnt: the assistant's are, unless they say no. Raises ValueError."""
    found = {name: message[name] for name in LEARNT if message.get(name) is not None}
    for name, value in found.items():
        if isinstance(value, str) or value not in (0, 1):
            raise ValueError(
                f"message {number}: `{name}` = {value!r} cannot be honoured: a turn is learnt "
                "(1 or true) or only read (0 or false)"
            )
    if len(set(map(bool, found.values()))) > 1:
        raise ValueError(f"message {number}: {' and '.join(found)} say different things")
    said = bool(next(iter(found.values()))) if found else None
    if said and message.get("role") != "assistant":
        raise ValueError(
            f"message {number}: only turns of the assistant are learnt, not of "
            f"{message.get('role')!r}: remove `{next(iter(found))}`"
        )
    return message.get("role") == "assistant" and said is not False
