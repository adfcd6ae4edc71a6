"""Chats as text: the one place that applies a chat template.

A template is a program of its own that may drop what it does not expect. What it drops is refused
here, found by marking every value and looking for the marks in what the template renders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fastedit.prompts.keys import is_note
from fastedit.prompts.messages import Chat

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Variables that are the renderer's own, and what to use in their place.
_OWN = {
    "tools": "`tools`",
    "messages": "`messages`",
    "conversation": "`messages`",
    "continue_final_message": "`continue_final_message`",
    "add_generation_prompt": "`continue_final_message`",
}
_CLOSED = "chat_template tokenize padding truncation max_length return_tensors return_dict".split()
_CLOSED += "return_assistant_tokens_mask tokenizer_kwargs sanitize_control_tokens".split()
_MARKED = ("content", "tool_calls")  # beside values that are texts
_ITERATES = re.compile(r"for\s+\w+\s+in\s+[\w.]*(content|\[\s*['\"]content['\"]\s*\])")

_TELLS_APART = re.compile(r"is\s+(not\s+)?(string|iterable|sequence|mapping)")


class Turn(NamedTuple):
    """A piece of a rendered chat; `message`: the number of the assistant's turn, None: read."""

    text: str
    message: int | None


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def render(chat: Chat, tokenizer: Any) -> str:
    """The chat up to where the assistant's answer begins, or goes on if the chat is `continued`.

    Raises ValueError where the template fails, does not know a role, or would leave out a message,
    a value of one, the tools or a variable; and for a last turn of the assistant that is not
    `continued`, which an answer would stand beside.
    """
    chat = _for_template(chat, tokenizer)
    last = chat.messages[-1]["role"]
    if chat.continued and last != "assistant":
        raise ValueError(
            f"continue_final_message goes on in a last message of the assistant, not of {last!r}"
        )
    if last == "assistant" and not chat.continued:
        raise ValueError(
            "the chat ends in a turn of the assistant: pass continue_final_message=True to go on "
            "in it, or remove it"
        )
    text = _apply(chat, tokenizer, answer_follows=not chat.continued)
    _check_all_is_read(chat, text, tokenizer, not chat.continued)
    return text


def render_turns(chat: Chat, tokenizer: Any) -> list[Turn]:
    """The chat in pieces: each of the assistant's turns, with what closes it, and all before it.

    What stands behind the last of them is left out. Raises ValueError as `render` does, and where
    a turn does not continue the template's own generation prompt.
    """
    chat = _for_template(chat, tokenizer)
    turns: list[Turn] = []
    seen = ""
    for number, message in enumerate(chat.messages):
        if message["role"] != "assistant":
            continue
        asked = replace(chat, messages=chat.messages[:number])
        answered = replace(chat, messages=chat.messages[: number + 1])
        before = _apply(asked, tokenizer, answer_follows=True) if number else ""
        after = _apply(answered, tokenizer, answer_follows=False)
        if not number or not (before.startswith(seen) and after.startswith(before)):
            raise ValueError(
                f"the chat template does not continue message {number} from its own generation "
                "prompt; give `prompt` and `completion`"
            )
        turns += [Turn(before[len(seen) :], None), Turn(after[len(before) :], number)]
        seen = after
    if turns:
        _check_all_is_read(answered, seen, tokenizer, False)
    return turns


def _for_template(chat: Chat, tokenizer: Any) -> Chat:
    """Checked against the template, contents as texts or as parts, as the template takes them."""
    if tokenizer is None:
        raise ValueError("chats need a tokenizer: give one, or prompts as id tensors")
    if not has_template(tokenizer):
        raise ValueError("this tokenizer has no chat template: give one text in place of messages")
    source = _source(chat, tokenizer)
    for name in chat.variables:
        if name in _OWN:
            raise ValueError(f"chat_template_kwargs has {name!r}: use {_OWN[name]}")
        if name in _CLOSED or not re.search(rf"\b{re.escape(name)}\b", source):
            raise ValueError(f"chat_template_kwargs has {name!r}, which the chat template does not")
    if not _ITERATES.search(source):
        return replace(chat, messages=[_joined(message) for message in chat.messages])
    if not _TELLS_APART.search(source):
        return replace(chat, messages=[_in_parts(message) for message in chat.messages])
    return chat


def _source(chat: Chat, tokenizer: Any) -> str:
    """The template that is applied to this chat; a tokenizer may have several by name."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        template = tokenizer.get_chat_template(None, chat.tools)
    return template


def _joined(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}] if content else []}


def _apply(chat: Chat, tokenizer: Any, *, answer_follows: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            chat.messages,
            tools=chat.tools,
            tokenize=False,
            add_generation_prompt=answer_follows,
            continue_final_message=chat.continued and not answer_follows,
            **chat.variables,
        )
    except Exception as error:  # whatever a template raises
        raise ValueError(_failure(error, chat, _source(chat, tokenizer))) from error
    return text


def _failure(error: Exception, chat: Chat, source: str) -> str:
    roles = list(dict.fromkeys(message["role"] for message in chat.messages))
    known = _named_roles(source)
    other = [role for role in roles if role not in known]
    said = f" on roles {', '.join(map(repr, roles))}"
    if known and other:
        said = f": role {other[0]!r} is none that it knows ({', '.join(known)})"
    reason = " ".join(str(error).split())
    return f"the chat template fails{said}: {reason}"


def _named_roles(source: str) -> list[str]:
    return [role for role in ROLES if _names(source, role)]


def _names(source: str, text: str) -> bool:
    return re.search(rf"['\"]{re.escape(text)}['\"]", source) is not None


def _check_all_is_read(chat: Chat, text: str, tokenizer: Any, answer_follows: bool) -> None:
    """Raises ValueError for what `text`, the rendered chat, does not depend on."""

    def changes(other: Chat) -> bool:
        try:
            return _apply(other, tokenizer, answer_follows=answer_follows) != text
        except ValueError:  # it cannot do without
            return True

    _check_roles(chat, tokenizer, answer_follows)
    if chat.tools and not changes(replace(chat, tools=None)):
        raise ValueError("the chat template has no place for `tools`: remove them")
    marked, marks = _marked(chat.messages)
    try:
        shown = _apply(replace(chat, messages=marked), tokenizer, answer_follows=answer_follows)
    except ValueError:
        shown = ""
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


def _check_roles(chat: Chat, tokenizer: Any, answer_follows: bool) -> None:
    """Raises ValueError for a role that the template takes for another one."""
    source = _source(chat, tokenizer)
    for number, message in enumerate(chat.messages):
        role = message["role"]
        if role in ("user", "assistant") or _names(source, role):
            continue
        mark = _mark(0)
        rest = [*chat.messages[:number], {**message, "role": mark}, *chat.messages[number + 1 :]]
        try:
            shown = _apply(replace(chat, messages=rest), tokenizer, answer_follows=answer_follows)
        except ValueError:
            continue
        if mark.lower() not in shown.lower():
            raise ValueError(
                f"message {number}: role {role!r} is none that the chat template knows "
                f"({', '.join(_named_roles(source))})"
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
