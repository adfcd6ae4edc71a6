"""A line of training data -> the texts that are learnt and those that are only read.

A line is the first of `{"messages": [...]}` (the assistant's turns are learnt), `{"prompt": ...,
"completion": ...}` (the completion is) and `{"text": ...}` (all of it is) that it has the keys of.
Other keys are refused, unless they only describe the line (`fastedit.files.keys`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from fastedit.chats.messages import as_chat, is_chat
from fastedit.chats.template import as_user, render, render_turns
from fastedit.files.keys import refuse_unread
from fastedit.files.records import CHAT_FIELDS, asked, chat_of, holds_chat

LEARNT = ("weight", "train", "loss")  # of a message: 1 or true, learnt; 0 or false, only read


class Part(NamedTuple):
    """A text that is tokenised by itself, as generation appends tokens to those of a prompt."""

    text: str
    response: bool  # learnt; otherwise only read


class Form(NamedTuple):
    """How lines are read."""

    tokenizer: Any
    raw: bool
    prompt: str
    completion: str
    ignored: frozenset[str]


def parts_of(record: dict[str, Any], form: Form) -> tuple[list[Part], bool]:
    """The parts of a line, and whether the tokenizer adds its own tokens to the first.

    Raises ValueError.
    """
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
        if is_chat(record[completion]):
            parts = _chat_parts(_answered(question, record[completion]), form.tokenizer)
        else:
            question = as_user(question, form.tokenizer, form.raw)
            special = isinstance(question, str)
            head = _text(record, prompt) if special else render(as_chat(question), form.tokenizer)
            parts = [Part(head, False), Part(_text(record, completion), True)]
        read -= {"messages", "conversations"} - own
    elif "text" in record:
        parts, special = [Part(_text(record, "text"), True)], True
        read = {"text"}
    else:
        has = ", ".join(f"`{name}`" for name in sorted(record)[:10]) or "no field"
        raise ValueError(
            f"needs one of `messages`, `{completion}` (with `{prompt}`) and `text`; it has {has}: "
            "prompt_field and completion_field give other names"
        )
    way_out = ", or pass --set ignore_fields=[...] with what may be left out"
    refuse_unread(record, read | form.ignored | set(LEARNT), way_out)
    return parts, special


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
