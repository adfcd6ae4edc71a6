"""A prompt as it was typed -> what the Decoder takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fastedit.prompts.template import has_template

if TYPE_CHECKING:
    from fastedit.decoder import Decoder


def typed(prompt: str) -> str:
    """The PROMPT argument; "-" is standard input without its last newline."""
    return sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt


def as_prompt(decoder: Decoder, text: str, raw: bool) -> Any:
    """One user message where the tokenizer has a chat template, unless `raw`; else the text."""
    if raw or not has_template(decoder.tokenizer):
        return text
    return [{"role": "user", "content": text}]
