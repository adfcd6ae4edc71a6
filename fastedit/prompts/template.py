"""Chats as text: the one place that applies a chat template.

A template is a program of its own that may drop what it does not expect: `marks` finds what it
drops, which is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from fastedit.prompts.marks import check_all_is_read, named_roles
from fastedit.prompts.messages import Chat
from fastedit.prompts.source import parsed

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
    _check(chat, text, tokenizer, answer_follows=not chat.continued)
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
        _check(answered, seen, tokenizer, answer_follows=False)
    return turns


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


def _check(chat: Chat, text: str, tokenizer: Any, *, answer_follows: bool) -> None:
    def rendered(other: Chat) -> str | None:
        try:
            return _apply(other, tokenizer, answer_follows=answer_follows)
        except ValueError:
            return None

    check_all_is_read(chat, text, rendered, _source(chat, tokenizer))


def _failure(error: Exception, chat: Chat, source: str) -> str:
    roles = list(dict.fromkeys(message["role"] for message in chat.messages))
    known = named_roles(source)
    other = [role for role in roles if role not in known]
    said = f" on roles {', '.join(map(repr, roles))}"
    if known and other:
        said = f": role {other[0]!r} is none that it knows ({', '.join(known)})"
    reason = " ".join(str(error).split())
    return f"the chat template fails{said}: {reason}"
