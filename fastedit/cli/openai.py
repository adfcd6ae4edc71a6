"""Lines of OpenAI's batch files: what their `body` asks, in the names of ours."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastedit.files.keys import empty, is_note

URL = "/v1/chat/completions"
# Options of OpenAI-like servers, and the values that ask for nothing. Others are refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "store": (True, False),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "do_sample": (False,),
    "num_beams": (1,),
    "skip_special_tokens": (True,),
    "parallel_tool_calls": (True, False),
    "tool_choice": ("auto",),
    "function_call": ("auto",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default", "flex"),
}
# They say who asks, and of whom.
_IGNORED = ("model", "user", "safety_identifier", "prompt_cache_key")
# Null is a value of its own here; elsewhere it asks for the default.
_NULLABLE = ("editing_threshold", "edit_threshold")


def is_batch_line(value: dict[str, Any]) -> bool:
    """Whether a line is one of theirs; `body` and `url` may be columns of another line, too."""
    if not isinstance(value.get("body"), dict):
        return {"custom_id", "method", "url", "body"} <= value.keys()
    return "custom_id" in value or "url" in value


def request_of(value: dict[str, Any], keep: Collection[str]) -> dict[str, Any]:
    """What the body asks, in the keys of other lines. Raises ValueError for other requests."""
    body = value["body"]
    if not isinstance(body, dict):
        raise ValueError(f"`body` must be an object; got {type(body).__name__}")
    if "custom_id" not in value:
        raise ValueError("needs a `custom_id` beside `body`")
    for name, allowed in (("method", "POST"), ("url", URL)):
        if value.get(name, allowed) != allowed:
            raise ValueError(f"`{name}` must be {allowed!r}; got {str(value[name])[:60]!r}")
    others = value.keys() - {"custom_id", "method", "url", "body", *keep}
    unread = sorted(name for name in others if not is_note(name) and not empty(value[name]))
    if unread and "all" not in keep:
        raise ValueError(f"`{unread[0]}` beside `body` would be left unread: move it into `body`")
    if "messages" not in body:
        raise ValueError("`body` needs `messages`")
    return {
        name: v
        for name, v in body.items()
        if name not in _IGNORED and (v is not None or name in _NULLABLE)
    }
