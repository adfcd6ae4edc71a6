"""What a rendered chat depends on: every value is marked, and its mark looked for in the text.

The text of a value is not enough: a short one may stand elsewhere in the chat.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastedit.prompts.keys import is_note
from fastedit.prompts.messages import Chat

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MARKED = ("content", "tool_calls")  # beside values that are texts


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
    marked, marks = _marked(chat.messages)
    shown = rendered(replace(chat, messages=marked)) or ""
    for mark, what in marks.items():
        # It may stand there in other letters, or be what a condition looks at.
        if mark not in shown and not changes(
            replace(chat, messages=_marked(chat.messages, mark)[0])
        ):
            raise ValueError(f"the chat template leaves out {what}: remove it")
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
        if role in ("user", "assistant") or _names(source, role):
            continue
        mark = _mark(0)
        rest = [*chat.messages[:number], {**message, "role": mark}, *chat.messages[number + 1 :]]
        shown = rendered(replace(chat, messages=rest))
        if shown is not None and mark.lower() not in shown.lower():
            raise ValueError(
                f"message {number}: role {role!r} is none that the chat template knows "
                f"({', '.join(named_roles(source))})"
            )


def _mark(number: int) -> str:
    return f"Mark{number}q"


def _marked(
    messages: list[dict[str, Any]], only: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Messages with a mark behind every text, or `only` that one; what each mark stands for."""
    marks: dict[str, str] = {}

    def marked(text: str, what: str) -> str:
        mark = _mark(len(marks))
        marks[mark] = what
        return text + mark if only in (None, mark) else text

    def value(name: str, number: int, message: dict[str, Any]) -> Any:
        old, what = message[name], _what(name, number, message)
        if name == "role" or _refers(name, message):
            return old
        if isinstance(old, str):
            return marked(old, what) if old.strip() else old
        if name == "content":
            return [{**part, "text": marked(part["text"], what)} for part in old]
        if name == "tool_calls":
            return [_marked_call(call, marked, what) for call in old]
        return old

    found = [
        {name: value(name, number, message) for name in message}
        for number, message in enumerate(messages)
    ]
    return found, marks


def _marked_call(call: Mapping[str, Any], marked: Any, what: str) -> dict[str, Any]:
    function = dict(call.get("function", call))
    function["name"] = marked(function["name"], what)
    if function.get("arguments"):
        word = marked("", f"the arguments in {what}")
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
    return [role for role in ROLES if _names(source, role)]


def _names(source: str, text: str) -> bool:
    return re.search(rf"['\"]{re.escape(text)}['\"]", source) is not None
