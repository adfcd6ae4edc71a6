"""What a rendered chat depends on: every value is marked, and looked for in front of its mark.

The text of a value is not enough: a short one may stand elsewhere in the chat. Nor is the mark: the
template may cut off what stands in front of it, such as reasoning between tags.
"""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastedit.chats.messages import Chat
from fastedit.chats.source import parsed
from fastedit.files.keys import is_note

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MARKED = ("content", "tool_calls")  # beside values that are texts
_BORDER = re.compile(r"(\n|</?[\w|]+>)")
# A template may put a few characters between pieces, such as "> " in front of each line.
_GAP = 16
# How a template may write a text, in any letters: as it is, in JSON, in HTML, as Python does.
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    lambda text: repr(text)[1:-1],
)


def check_all_is_read(
    chat: Chat, text: str, rendered: Callable[[Chat], str | None], source: str
) -> None:
    """Raises ValueError for what `text`, the rendered chat, does not depend on.

    rendered  renders another chat in the same way; None: the template fails on it
    source    of the template
    """

    def changes(other: Chat) -> bool:
        return rendered(other) != text  # where the template fails, it cannot do without

    _check_roles(chat, rendered, source)
    if chat.tools and not changes(replace(chat, tools=None)):
        raise ValueError("the chat template has no place for `tools`: remove them")
    for lost in _lost(chat, text, rendered):
        raise ValueError(f"the chat template leaves out {lost}: remove it")
    for number, message in enumerate(chat.messages):
        for name, value in message.items():
            if isinstance(value, str) or name in _MARKED or _refers(name, message):
                continue
            less = {key: v for key, v in message.items() if key != name}
            rest = [*chat.messages[:number], less, *chat.messages[number + 1 :]]
            if not changes(replace(chat, messages=rest)):
                raise ValueError(
                    f"the chat template leaves out {_what(name, number, message)}: remove it"
                )


def _check_roles(chat: Chat, rendered: Callable[[Chat], str | None], source: str) -> None:
    """Raises ValueError for a role that the template takes for another one."""
    for number, message in enumerate(chat.messages):
        role = message["role"]
        if role in ("user", "assistant") or role in parsed(source).texts:
            continue
        mark = _mark(0)
        rest = [*chat.messages[:number], {**message, "role": mark}, *chat.messages[number + 1 :]]
        shown = rendered(replace(chat, messages=rest))
        if shown is not None and mark.lower() not in shown.lower():
            raise ValueError(
                f"message {number}: role {role!r} is none that the chat template knows "
                f"({', '.join(named_roles(source))})"
            )


def _lost(chat: Chat, text: str, rendered: Callable[[Chat], str | None]) -> Iterator[str]:
    """What of the texts of a chat is not in `text`, as far as each in front of its mark tells."""
    texts: list[tuple[str, str]] = []

    def marked(number: int, value: str, what: str) -> str:
        texts.append((value, what))
        return value + _mark(number)

    shown = (rendered(_written(chat, marked)) or "").casefold()
    folded = text.casefold()
    for number, (value, what) in enumerate(texts):
        mark = _mark(number)
        if mark.casefold() in shown:
            whole = _holds(shown, [value.lstrip() + mark]) and _holds(folded, [value.strip()])
            if not whole and not _holds_pieces(chat, folded, rendered, number):
                yield f"a part of {what}"
        # A condition may look at it, or its end be cut off.
        elif rendered(_with_mark(chat, number)) == text or (
            what.startswith("message") and not _holds(folded, _pieces(value))
        ):
            yield what


def _with_mark(chat: Chat, number: int) -> Chat:
    """A chat with a mark behind one of its texts."""

    def write(at: int, value: str, _: str) -> str:
        return value + _mark(number) if at == number else value

    return _written(chat, write)


def _holds_pieces(
    chat: Chat, folded: str, rendered: Callable[[Chat], str | None], number: int
) -> bool:
    """Whether all lines and tags of a text are there, which the template may have taken apart."""
    found: list[str] = []

    def write(at: int, value: str, _: str) -> str:
        if at != number:
            return value
        written = ""
        for piece in _BORDER.split(value):
            if core := piece.strip():
                head, _, tail = piece.partition(core)
                piece = f"{head}{core}{_mark(number)}{len(found)}q{tail}"
                found.append(core)
            written += piece
        return written

    shown = (rendered(_written(chat, write)) or "").casefold()
    left = set(range(len(found)))
    for mark in re.finditer(rf"{_mark(number).casefold()}(\d+)q", shown):
        which = int(mark[1])
        piece = found[which] if which < len(found) else ""
        longest = max(len(spelt) for spelt in _spelt(piece))
        before = shown[max(0, mark.start() - longest - _GAP) : mark.start()].rstrip()
        if before.endswith(_spelt(piece)):
            left.discard(which)
    return not left and _holds(folded, found)


def _pieces(text: str) -> list[str]:
    """Lines and tags of a text, without white space around them."""
    return [core for piece in _BORDER.split(text) if (core := piece.strip())]


def _holds(folded: str, pieces: Sequence[str]) -> bool:
    """Whether pieces stand one after another in a text, in one of the spellings."""
    spelt = [_spelt(piece) for piece in pieces]
    return any(_chained(folded, chain) for chain in zip(*spelt, strict=True)) if spelt else True


def _spelt(text: str) -> tuple[str, ...]:
    return tuple(spell(text).casefold() for spell in _SPELLINGS)


def _chained(text: str, pieces: Sequence[str]) -> bool:
    start = text.find(pieces[0])
    while start >= 0:
        end = start + len(pieces[0])
        for piece in pieces[1:]:
            while text[end : end + 1].isspace():
                end += 1
            at = text.find(piece, end, end + _GAP + len(piece))
            if at < 0:
                break
            end = at + len(piece)
        else:
            return True
        start = text.find(pieces[0], start + 1)
    return False


def end_of_turn(
    chat: Chat, number: int, text: str, rendered: Callable[[Chat], str | None]
) -> int | None:
    """Where message `number` ends in `text`, with what closes it; None: that cannot be told.

    A mark at the end of its last text is found in the chat, and in the chat up to this message,
    which ends in what closes it.
    """
    mark = _mark(number)
    last = _marked_at_end(chat.messages[number], mark)
    before, behind = chat.messages[:number], chat.messages[number + 1 :]
    alone = (rendered(replace(chat, messages=[*before, last])) or "").split(mark)
    whole = (rendered(replace(chat, messages=[*before, last, *behind])) or "").split(mark)
    if len(alone) != 2 or len(whole) != 2 or "".join(whole) != text:
        return None
    closing = alone[1]
    return len(whole[0]) + len(closing) if whole[1].startswith(closing) else None


def _marked_at_end(message: dict[str, Any], mark: str) -> dict[str, Any]:
    def marked(text: str) -> str:
        core = text.rstrip()  # white space behind may be cut off
        return core + mark + text[len(core) :]

    if calls := message.get("tool_calls"):
        call = calls[-1]
        function = call.get("function", call)
        function = {**function, "name": marked(function["name"])}
        last = {**call, "function": function} if "function" in call else function
        return {**message, "tool_calls": [*calls[:-1], last]}
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": marked(content)}
    parts = [*content[:-1], *({**part, "text": marked(part["text"])} for part in content[-1:])]
    return {**message, "content": parts}


def _mark(number: int) -> str:
    return f"Mark{number}q"


def _written(chat: Chat, write: Callable[[int, str, str], str]) -> Chat:
    """A chat with each of its texts as `write` returns it of (its number, the text, what it is).

    What a tool call's arguments are is a text of its own: a key that they get, "" for none.
    """
    numbers = itertools.count()

    def written(text: str, what: str) -> str:
        return write(next(numbers), text, what)

    def value(name: str, number: int, message: dict[str, Any]) -> Any:
        old, what = message[name], _what(name, number, message)
        if name == "role" or _refers(name, message):
            return old
        if isinstance(old, str):
            return written(old, what) if old.strip() else old
        if name == "content":
            return [{**part, "text": written(part["text"], what)} for part in old]
        if name == "tool_calls":
            return [_written_call(call, written, what) for call in old]
        return old

    messages = [
        {name: value(name, number, message) for name in message}
        for number, message in enumerate(chat.messages)
    ]
    return replace(chat, messages=messages)


def _written_call(
    call: Mapping[str, Any], written: Callable[[str, str], str], what: str
) -> dict[str, Any]:
    function = dict(call.get("function", call))
    function["name"] = written(function["name"], what)
    if function.get("arguments"):
        word = written("", f"the arguments in {what}")
        function["arguments"] = {**function["arguments"], **({word: word} if word else {})}
    return {**call, "function": function} if "function" in call else function


def _what(name: str, number: int, message: dict[str, Any]) -> str:
    if name == "content":
        return f"message {number}, of role {message['role']!r}"
    return f"`{name}` of message {number}, of role {message['role']!r}"


def _refers(name: str, message: dict[str, Any]) -> bool:
    """Whether a key only says which message or call this one belongs to, or describes it."""
    return is_note(name) or (name == "name" and message["role"] in ("tool", "function"))


def named_roles(source: str) -> list[str]:
    """The roles that the source of a template spells."""
    return [role for role in ROLES if role in parsed(source).texts]
