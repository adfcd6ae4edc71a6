"""What a chat is: messages, tools and variables of the template, checked before any template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastedit.files.keys import BESIDE, empty, refuse_unread

KEYS = ("messages", *BESIDE)
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class ChatOptions:
    """How chats of a call are rendered; a chat that is an object may say otherwise for itself.

    tools                   schemas (or functions, of which transformers makes them)
    chat_template_kwargs    variables of the template, such as enable_thinking
    continue_final_message  go on within the last message, an assistant's, which is not closed

    Raises TypeError for another type.
    """

    tools: Sequence[Any] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    continue_final_message: bool = False

    def __post_init__(self) -> None:
        _checked_options(self.tools, self.chat_template_kwargs, self.continue_final_message)

    def given(self) -> list[str]:
        """Names of what is set."""
        return [name for name, value in vars(self).items() if value]


@dataclass(frozen=True)
class Chat:
    """Messages with a text as `content`, or a list of parts, and how they are rendered."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    continued: bool = False


def is_chat(value: Any) -> bool:
    """Whether a value is one chat: a list of messages, or an object with `messages`."""
    if isinstance(value, Mapping):
        return "messages" in value
    return (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and len(value) > 0
        and all(isinstance(message, Mapping) or _dumps(message) for message in value)
        and not any(isinstance(m, Mapping) and ("messages" in m or "input_ids" in m) for m in value)
    )


def as_chat(value: Any, options: ChatOptions | None = None) -> Chat:
    """A list of messages, or an object with `messages`, -> `Chat`. Raises ValueError, TypeError."""
    options = options or ChatOptions()
    tools, variables = options.tools, dict(options.chat_template_kwargs or {})
    continued, messages = options.continue_final_message, value
    if isinstance(value, Mapping):
        refuse_unread(value, KEYS)
        messages, own = value["messages"], value.get("chat_template_kwargs")
        tools = _parsed(value["tools"], "tools") if value.get("tools") else tools
        continued = value.get("continue_final_message", continued)
        _checked_options(tools, own, continued)
        variables |= own or {}
        if value.get("add_generation_prompt") not in (None, not continued):
            raise ValueError(
                f"`add_generation_prompt` is {value['add_generation_prompt']!r}: only "
                "`continue_final_message` says whether an answer begins or goes on"
            )
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise ValueError(f"`messages` must be a list of objects; got {str(messages)[:60]!r}")
    read = [_message(number, message) for number, message in enumerate(messages)]
    return Chat(read, list(tools) if tools else None, variables, bool(continued))


def _checked_options(tools: Any, variables: Any, continued: Any) -> None:
    if tools is not None and (
        not isinstance(tools, Sequence)
        or isinstance(tools, (str, bytes))
        or not all(isinstance(tool, Mapping) or callable(tool) for tool in tools)
    ):
        raise TypeError(f"tools must be a list of schemas or functions; got {str(tools)[:60]!r}")
    if variables is not None and not isinstance(variables, Mapping):
        raise TypeError(f"chat_template_kwargs must be a mapping; got {str(variables)[:60]!r}")
    if not isinstance(continued, bool):
        raise TypeError(f"continue_final_message must be True or False; got {continued!r}")


def _dumps(message: Any) -> bool:
    """Whether a message is an object of a client library, such as OpenAI's, that gives a dict."""
    return callable(getattr(message, "model_dump", None)) and not isinstance(message, type)


def _message(number: int, message: Any) -> dict[str, Any]:
    """A message that templates can read: no null, its content a text or parts of text."""
    where = f"message {number}"
    message = message.model_dump() if _dumps(message) else message
    if not isinstance(message, Mapping):
        raise ValueError(
            f"{where} must be an object with `role` and `content`; got {message!r:.60}"
        )
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError(f"{where} needs a `role`; got {dict(message)!r:.60}")
    others = {name: v for name, v in message.items() if name != "role" and not empty(v)}
    content = others.pop("content", message.get("content"))
    if others.get("tool_calls"):
        others["tool_calls"] = _tool_calls(where, others["tool_calls"])
    if content is None and not {"tool_calls", "function_call"} & others.keys():
        raise ValueError(
            f"{where} needs `content`: give it `role` and `content`; got {dict(message)!r:.60}"
        )
    return {"role": role, "content": _content(where, content), **others}


def _content(where: str, content: Any) -> Any:
    """ "" for null: templates call methods of a text on it."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        kind = type(content).__name__
        raise ValueError(f"{where}: `content` must be a text or a list of text parts; got {kind}")
    return [_part(f"{where}, part {number}", part) for number, part in enumerate(content)]


def _part(where: str, part: Any) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(part, Mapping) or kind not in _TEXT_PARTS:
        raise ValueError(f"{where} is of type {kind!r}: only parts of type 'text' can be read")
    if not isinstance(part.get("text"), str):
        raise ValueError(f"{where} needs a `text`; got {dict(part)!r:.60}")
    return {"type": "text", "text": part["text"]}


def _tool_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    """Calls with arguments as an object, which templates expect; in OpenAI's they are JSON text."""
    calls = _parsed(calls, "tool_calls")
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise ValueError(
            f"{where}: `tool_calls` must be a list of objects; got {str(calls)[:60]!r}"
        )
    read = []
    for call in calls:
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"{where}: a tool call needs the `name` of a function")
        arguments = _parsed(function.get("arguments") or {}, f"arguments of {function['name']}")
        if not isinstance(arguments, Mapping):
            raise ValueError(f"{where}: arguments of {function['name']} must be an object")
        function = {**function, "arguments": dict(arguments)}
        read.append({**call, "function": function} if "function" in call else function)
    return read


def _parsed(value: Any, name: str) -> Any:
    """JSON text as what it says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"{name} must be JSON; got {value[:60]!r}") from None
