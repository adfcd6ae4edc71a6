"""Chats as text: the one place that applies a chat template.

A template is a program of its own that may drop what it does not expect: `marks` finds what it
drops, which is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fastedit.chats.marks import ROLES, check_all_is_read, end_of_turn, named_roles
from fastedit.chats.messages import Chat, is_chat
from fastedit.chats.source import parsed

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


class RawTextWarning(UserWarning):
    """A text is decoded as it stands, by a decoder whose tokenizer has a chat template."""


class Turn(NamedTuple):
    """A piece of a rendered chat; `message`: the number of the assistant's turn, None: read."""

    text: str
    message: int | None


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def as_user(prompt: Any, tokenizer: Any, raw: bool) -> Any:
    """A text as one user's message where there is a chat template, unless `raw`; else as it is."""
    if raw or not isinstance(prompt, str) or not has_template(tokenizer):
        return prompt
    return [{"role": "user", "content": prompt}]


def as_chats(value: Any, tokenizer: Any) -> Any:
    """A text, and each text of a list, as one user's message; chats stay as they are.

    Raises TypeError for anything else, ValueError for a blank text and without a chat template.
    """
    if not has_template(tokenizer):
        raise ValueError(
            "chat needs a tokenizer with a chat template: `generate` takes texts as they stand"
        )
    if isinstance(value, (list, tuple)) and not is_chat(value):
        return [as_chats(one, tokenizer) for one in value]
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the text is empty: give a text to answer")
        return as_user(value, tokenizer, raw=False)
    if isinstance(value, Mapping) and "role" in value:
        raise TypeError("chat takes messages as a list; got one of them: put it in a list")
    if not is_chat(value):
        raise TypeError(
            f"chat takes a text or messages, one or a list; got {type(value).__name__}: "
            "`generate` takes ids"
        )
    return value


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
    return _rendered(chat, tokenizer, answer_follows=not chat.continued)[0]


def render_turns(chat: Chat, tokenizer: Any, learnt: Collection[int] | None = None) -> list[Turn]:
    """The chat in pieces: each of the assistant's turns, with what closes it, and all before it.

    learnt  numbers of the turns that are wanted; None: all. Others belong to what is only read

    What stands behind the last of them is left out. Raises ValueError as `render` does, where a
    turn does not continue the template's own generation prompt, and where its end cannot be told.
    """
    chat = _for_template(chat, tokenizer)
    said = [number for number, m in enumerate(chat.messages) if m["role"] == "assistant"]
    if not said:
        return []
    _check_behind(chat, said[-1] + 1)
    chat = replace(chat, messages=chat.messages[: said[-1] + 1])
    text, form = _rendered(chat, tokenizer, answer_follows=False)
    turns: list[Turn] = []
    seen = 0
    for number in said if learnt is None else [n for n in said if n in learnt]:
        start, end = _place(chat, number, text, tokenizer, form)
        turns += [Turn(text[seen:start], None), Turn(text[start:end], number)]
        seen = end
    return [*turns, Turn(text[seen:], None)] if seen < len(text) else turns


def _check_behind(chat: Chat, start: int) -> None:
    """Raises ValueError for what stands behind the last turn of the assistant and may be one."""
    for number, message in enumerate(chat.messages[start:], start=start):
        if message["role"] not in ROLES:
            raise ValueError(
                f"message {number}: role {message['role']!r} is unknown, and behind the last turn "
                "of the assistant it would be left out: name its role, or remove it"
            )


def _place(chat: Chat, number: int, text: str, tokenizer: Any, form: _Form) -> tuple[int, int]:
    """Where a turn of the assistant begins and ends in the text of its chat. Raises ValueError."""
    way_out = "give it `weight` 0 to have it read only, or give `prompt` and `completion`"
    asked = replace(chat, messages=chat.messages[:number])
    answered = replace(chat, messages=chat.messages[: number + 1])
    before = _apply(asked, tokenizer, form, answer_follows=True) if number else ""
    if not before or not text.startswith(before):
        raise ValueError(
            f"the chat template does not continue message {number} from its own generation "
            f"prompt: {way_out}"
        )
    after = _apply(answered, tokenizer, form, answer_follows=False)
    if after.startswith(before) and text.startswith(after):
        return len(before), len(after)
    # Templates write a turn otherwise once another one follows: Qwen3's without its reasoning.
    render = _renderer(tokenizer, form, answer_follows=False)
    end = end_of_turn(chat, number, text, render)
    if end is None or end <= len(before):
        raise ValueError(
            f"the chat template writes message {number} otherwise once others follow, and its end "
            f"cannot be told: {way_out}"
        )
    return len(before), end


def _for_template(chat: Chat, tokenizer: Any) -> Chat:
    """Checked against the template, contents as texts or as parts, as the template takes them."""
    if tokenizer is None:
        raise ValueError("chats need a tokenizer: give one, or prompts as id tensors")
    if not has_template(tokenizer):
        raise ValueError("this tokenizer has no chat template: give one text in place of messages")
    source = parsed(_source(chat, tokenizer))
    for name in chat.variables:
        if name in _OWN:
            raise ValueError(f"chat_template_kwargs has {name!r}: use {_OWN[name]}")
        if name in _CLOSED or name not in source.variables:
            raise ValueError(f"chat_template_kwargs has {name!r}, which the chat template does not")
    if not source.goes_through_parts:
        return replace(chat, messages=[_joined(message) for message in chat.messages])
    if not source.tells_apart:
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


class _Form(NamedTuple):
    """How messages with tool calls are given to a template.

    null   a content that is empty as None, otherwise as ""
    texts  arguments of calls as JSON text, otherwise as objects
    """

    null: bool = False
    texts: bool = False


def _rendered(chat: Chat, tokenizer: Any, *, answer_follows: bool) -> tuple[str, _Form]:
    """The chat in the first form that the template reads all of. Raises ValueError for none."""
    calls = any(message.get("tool_calls") for message in chat.messages)
    errors: list[ValueError] = []
    for form in [_Form(a, b) for b in (False, True) for a in (False, True)] if calls else [_Form()]:
        try:
            text = _apply(chat, tokenizer, form, answer_follows=answer_follows)
            if calls and not form.texts:
                _check_arguments(chat, text)
            render = _renderer(tokenizer, form, answer_follows=answer_follows)
            check_all_is_read(chat, text, render, _source(chat, tokenizer))
        except ValueError as error:
            errors.append(error)
        else:
            return text, form
    raise errors[0]


def _renderer(tokenizer: Any, form: _Form, *, answer_follows: bool) -> Callable[[Chat], str | None]:
    def rendered(chat: Chat) -> str | None:
        try:
            return _apply(chat, tokenizer, form, answer_follows=answer_follows)
        except ValueError:
            return None

    return rendered


def _apply(chat: Chat, tokenizer: Any, form: _Form, *, answer_follows: bool) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [_formed(message, form) for message in chat.messages]
    options = {
        "tools": chat.tools,
        "add_generation_prompt": answer_follows,
        "continue_final_message": chat.continued and not answer_follows,
        **chat.variables,
    }
    try:
        if not form.null:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
        # The tokenizer's own method takes keys that are None out of messages.
        options = {**tokenizer.special_tokens_map, **options}
        source = _source(chat, tokenizer)
        rendered: Any = render_jinja_template([messages], chat_template=source, **options)
        return str(rendered[0][0])
    except Exception as error:  # whatever a template raises
        raise ValueError(_failure(error, chat, _source(chat, tokenizer))) from error


def _formed(message: dict[str, Any], form: _Form) -> dict[str, Any]:
    if not message.get("tool_calls"):
        return message
    if form.null and not message["content"]:
        message = {**message, "content": None}
    if form.texts:
        message = {**message, "tool_calls": [_as_text(call) for call in message["tool_calls"]]}
    return message


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    text = json.dumps(function["arguments"], ensure_ascii=False)
    function = {**function, "arguments": text}
    return {**call, "function": function} if "function" in call else function


def _check_arguments(chat: Chat, text: str) -> None:
    """Raises ValueError for arguments that a template joins to a text: Python's are no JSON."""
    for message in chat.messages:
        for call in message.get("tool_calls") or []:
            arguments = call.get("function", call)["arguments"]
            if arguments and str(arguments) in text:
                raise ValueError("the chat template writes arguments of tool calls as Python does")


def _failure(error: Exception, chat: Chat, source: str) -> str:
    roles = list(dict.fromkeys(message["role"] for message in chat.messages))
    known = named_roles(source)
    other = [role for role in roles if role not in known]
    said = f" on roles {', '.join(map(repr, roles))}"
    if known and other:
        said = f": role {other[0]!r} is none that it knows ({', '.join(known)})"
    reason = " ".join(str(error).split())
    return f"the chat template fails{said}: {reason}"
