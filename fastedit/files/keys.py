"""Which keys of a line, a chat or a message may be left unread; all others are read or refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

# What stands beside `messages` in a chat that is an object, or in a line.
BESIDE = ("tools", "chat_template_kwargs", "continue_final_message", "add_generation_prompt")
# They say where something comes from, or describe it, and change nothing of it.
_NOTES = frozenset(
    "id uuid guid key hash sha sha1 sha256 md5 idx index number row line "
    "source sources origin dataset datasets subset split url urls uri link links license licence "
    "metadata meta info comment comments note notes author annotator version model generator "
    "timestamp time date created updated language languages lang locale country "
    "category categories subcategory tag tags topic topics subject domain field genre type task "
    "difficulty level grade score scores rating token_count".split()
)
# Nothing with "token": stop_token_ids and their kind say how to decode.
_NOTE = re.compile(
    r"_.*|meta_.*|(created|updated|generated|posted)_(at|on|by)"
    r"|(?!.*token).*_(id|uuid|hash|url|uri|date|timestamp|index|idx|count|source|score|meta)"
    r"|(num|n)_(tokens|turns|words|chars|messages|rounds)"
)
# Answers that others gave to a prompt say nothing of how to decode it.
ANSWERS = frozenset(
    "answer answers completion completions response output target targets expected "
    "expected_output expected_answer reference references gold gold_answer ground_truth solution "
    "solutions final_answer".split()
)
_TEXT_ONLY = "this model reads text only"
_PREFERENCE = "preferences are not learnt: give the answer to learn"
_JOIN = "join it to the prompt"
_REMEDIES = {
    **dict.fromkeys("image images image_url audio audios video videos files".split(), _TEXT_ONLY),
    **dict.fromkeys("chosen rejected label labels preference".split(), _PREFERENCE),
    **dict.fromkeys("input context history examples few_shot documents".split(), _JOIN),
    "functions": "spell it `tools`",
    "function_call": "spell it `tool_calls`, in a message",
    "tool_calls": "it belongs into a message of `messages`",
    "reasoning_content": "it belongs into a message of `messages`",
    "enable_thinking": "give it in `chat_template_kwargs`",
    "instruction": "name it as the field of the prompt",
    "question": "name it as the field of the prompt",
}


def empty(value: Any) -> bool:
    """Whether a value says nothing: null, or a text, list or object without anything in it."""
    return value is None or (isinstance(value, (str, list, tuple, dict)) and not value)


def is_note(name: Any) -> bool:
    """Whether a key only describes what it stands beside: an id, a source, metadata, ..."""
    return isinstance(name, str) and (name in _NOTES or bool(_NOTE.fullmatch(name)))


def known_remedy(name: str) -> bool:
    """Whether a key is known to change the meaning of what it stands beside."""
    return name in _REMEDIES


def remedy(name: str) -> str:
    """What to do about a key that is not read."""
    return _REMEDIES.get(name, "remove it")


def refuse_unread(values: Mapping[str, Any], read: Collection[str], way_out: str = "") -> None:
    """Raise ValueError for the first key that is neither in `read`, nor a note, nor empty.

    way_out  what else may be done about it, besides what `remedy` says
    """
    for name, value in values.items():
        if name not in read and not is_note(name) and not empty(value):
            raise ValueError(f"`{name}` would be left unread: {remedy(name)}{way_out}")
