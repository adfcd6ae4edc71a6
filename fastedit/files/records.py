"""What a line asks: a text or a chat, with what belongs to the chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastedit.files.keys import BESIDE, empty

# Keys that belong to the prompt of a line, whatever the field of the prompt is called.
CHAT_FIELDS = ("messages", "conversations", "system", *BESIDE)
_SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool"}


def holds_chat(record: Mapping[str, Any]) -> bool:
    return "messages" in record or "conversations" in record


def chat_of(record: Mapping[str, Any]) -> Any:
    """The chat of a line with `messages` or `conversations`, and what stands beside them.

    A list of messages where nothing does, else an object for `messages.as_chat`. Raises ValueError.
    """
    if "messages" in record and "conversations" in record:
        raise ValueError("has both `messages` and `conversations`: remove one of them")
    name = "messages" if "messages" in record else "conversations"
    value = record[name]
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise ValueError(f"`{name}` must be a list of objects with `role` and `content`")
    return _with_fields(value if name == "messages" else from_sharegpt(value), record)


def asked(record: Mapping[str, Any], name: str, raw: bool) -> Any:
    """What a line asks in field `name`: a text as it is, or a chat as `chat_of` gives it.

    A text beside a system message, tools and the like is a user's message. Raises ValueError for
    these where `raw` leaves the chat template out.
    """
    value = record[name]
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        return _with_fields(value, record)
    if not isinstance(value, str):
        raise ValueError(
            f"`{name}` must be a text; got {type(value).__name__}: give a text or messages"
        )
    beside = [field for field in ("system", *BESIDE) if not empty(record.get(field))]
    if record.get("continue_final_message") is False:
        beside.remove("continue_final_message")
    if record.get("add_generation_prompt") is True:
        beside.remove("add_generation_prompt")
    if not beside:
        return value
    if raw:
        raise ValueError(f"`{beside[0]}` needs the chat template, which --raw leaves out")
    return _with_fields([{"role": "user", "content": value}], record)


def _with_fields(messages: list[dict[str, Any]], record: Mapping[str, Any]) -> Any:
    system = record.get("system")
    if system:
        if not isinstance(system, str):
            raise ValueError(f"`system` must be a text; got {type(system).__name__}")
        if messages[0].get("role") in ("system", "developer"):
            raise ValueError("has `system` beside a first message of that role: remove one of them")
        messages = [{"role": "system", "content": system}, *messages]
    beside = {name: record[name] for name in BESIDE if not empty(record.get(name))}
    return {"messages": messages, **beside} if beside else messages


def from_sharegpt(value: Any) -> list[dict[str, Any]]:
    """`from` and `value` of ShareGPT's `conversations` -> messages; others stay as they are.

    Raises ValueError.
    """
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise ValueError("`conversations` must be a list of objects with `from` and `value`")
    messages = []
    for turn in value:
        message = dict(turn)
        if "from" in message and "value" in message and "role" not in message:
            speaker = message.pop("from")
            message = {
                "role": _SHAREGPT.get(speaker, speaker),
                "content": message.pop("value"),
                **message,
            }
        messages.append(message)
    return messages
