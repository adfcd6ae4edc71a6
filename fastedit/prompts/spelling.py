"""How a tokenizer's ids become text, and what of that text no later id can change."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

# A run of byte tokens up to this length is looked at as it stands: line ends may be such tokens.
_LOOK_AHEAD = 64
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Decoders that look at one token, or a run of byte tokens, and at most know whether it is the first
# or the last one.
_BY_TOKEN = {"BPEDecoder", "ByteFallback", "Metaspace", "Replace", "Strip", "WordPiece"}


class Spelling:
    """What follows from a tokenizer's decoder; its tables fill as ids come up.

    kind  BYTES: the bytes of all tokens in a row are UTF-8
          TOKENS: each token has a text of its own, which depends on its neighbours at most
          WHOLE: nothing is known, a later token may change everything
    """

    BYTES, TOKENS, WHOLE = "bytes", "tokens", "whole"

    def __init__(self, tokenizer: Any) -> None:
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        steps = _steps(tokenizer, self.backend)
        self.kind = self.WHOLE if steps is None else _kind(steps)
        self.byte_tokens = any(step["type"] == "ByteFallback" for step in steps or ())
        # What `skip_special_tokens` skips.
        added = {} if steps is None else tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self.special = {i for i, token in added.items() if token.special}
        self.bytes_of = cache(self._bytes_of)
        self.joins = cache(self._joins)

    def shown(self, token: int) -> bool:
        """Whether a token is part of the text at all."""
        return token not in self.special and self.backend.id_to_token(token) is not None

    def _bytes_of(self, token: int) -> bytes:
        if not self.shown(token):
            return b""
        text = self.backend.id_to_token(token)
        known = _byte_alphabet()
        return bytes(map(known.__getitem__, text)) if known.keys() >= set(text) else text.encode()

    def _joins(self, token: int) -> bool:
        """Whether a token's text waits for the next one: a byte among bytes, or nothing."""
        if not self.byte_tokens:
            return False
        return not self.shown(token) or bool(_BYTE_TOKEN.fullmatch(self.backend.id_to_token(token)))


def _steps(tokenizer: Any, backend: Any) -> list[dict[str, Any]] | None:
    """The decoders of a tokenizer of the `tokenizers` library, in order; None: not known."""
    from transformers import PreTrainedTokenizerFast

    own = getattr(type(tokenizer), "_decode", PreTrainedTokenizerFast._decode)
    if backend is None or own is not PreTrainedTokenizerFast._decode:
        return None
    if backend.decoder is None:  # tokens with spaces between them
        return []
    try:
        state = json.loads(backend.decoder.__getstate__())
    except Exception:  # a decoder in Python has no state to show
        return None
    steps: list[dict[str, Any]] = state.get("decoders", [state])
    return steps


def _kind(steps: list[dict[str, Any]]) -> str:
    names = [step["type"] for step in steps]
    if names and names[0] == "ByteLevel" and set(names[1:]) <= {"Fuse"}:
        return Spelling.BYTES
    fused = False  # from there on, the text is one
    for step in steps:
        name = step["type"]
        character = name == "Replace" and len(step["pattern"].get("String", "--")) == 1
        if name == "Fuse":
            fused = True
        elif not (character or name == "Strip" if fused else name in _BY_TOKEN):
            return Spelling.WHOLE
    return Spelling.TOKENS


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters that byte-level tokenizers write bytes in, as `openai/gpt-2` chose them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(others)}


class BytesText:
    """Text of byte-level tokens: their bytes, of which an unfinished character waits."""

    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self.start = 0  # ids that have been taken
        self.waiting = b""

    def text(self, ids: list[int], end: int) -> str:
        """Of `ids[:end]`, what is behind the settled text, as it would stand if this were all."""
        return self._decoded(ids, end, True)[0]

    def rest(self, ids: list[int], end: int) -> str:
        """As `text`, where that is worth a look before it is settled; else nothing."""
        return ""

    def settle(self, ids: list[int], end: int, final: bool) -> str:
        """Of `ids[:end]`, the next piece of text that no later id can change.

        final: there are no later ids
        """
        text, self.waiting = self._decoded(ids, end, final)
        self.start = end
        return text

    def _decoded(self, ids: list[int], end: int, final: bool) -> tuple[str, bytes]:
        data = self.waiting + b"".join(map(self.spelling.bytes_of, ids[self.start : end]))
        text, used = codecs.utf_8_decode(data, "replace", final)
        return text, data[used:]


class TokensText:
    """Text of tokens that depend on their neighbours: decoded behind the last ones before them.

    A run of byte tokens is text or not as a whole, so it waits for the token behind it.
    """

    def __init__(self, spelling: Spelling, decode: Callable[[list[int]], str]) -> None:
        self.spelling, self.decode = spelling, decode
        self.start = 0  # ids whose text is settled
        self.seen = 0  # ids that were looked at; those from `start` on wait
        self.before: list[int] = []  # the last of them, enough for the next not to be the first
        self.skipped = 0  # characters of their text

    def text(self, ids: list[int], end: int) -> str:
        """As of `BytesText`."""
        return self.decode(self.before + ids[self.start : end])[self.skipped :]

    def rest(self, ids: list[int], end: int) -> str:
        """As of `BytesText`."""
        return self.text(ids, end) if 0 < end - self.start <= _LOOK_AHEAD else ""

    def settle(self, ids: list[int], end: int, final: bool) -> str:
        """As of `BytesText`."""
        seam = end
        while not final and seam > self.seen and self.spelling.joins(ids[seam - 1]):
            seam -= 1
        nothing = seam == self.start if final else seam == self.seen
        self.seen = end
        if nothing:
            return ""
        text = self.text(ids, seam)
        self._move(ids, seam)
        return text

    def _move(self, ids: list[int], end: int) -> None:
        """Keep as many ids as have a text: only that tells that they are not the first any more."""
        shown = self.before + [i for i in ids[self.start : end] if self.spelling.shown(i)]
        kept = 1
        while not (text := self.decode(shown[-kept:])) and kept < len(shown):
            kept *= 2
        self.before, self.skipped, self.start = shown[-kept:], len(text), end


class WholeText:
    """Text of a tokenizer that nothing is known of: decoded as a whole, at a cost that grows.

    What two updates in a row have in common is taken to be settled.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.start = 0  # of the ids that a text depends on
        self.settled = 0  # characters
        self.last = ""

    def text(self, ids: list[int], end: int) -> str:
        """As of `BytesText`."""
        return self.decode(ids[:end])[self.settled :]

    def rest(self, ids: list[int], end: int) -> str:
        """As of `BytesText`."""
        return self.last[self.settled :]

    def settle(self, ids: list[int], end: int, final: bool) -> str:
        """As of `BytesText`."""
        whole = self.decode(ids[:end])
        common = len(whole) if final else _common(self.last, whole)
        self.last = whole
        text = whole[self.settled : common]
        self.settled += len(text)
        return text


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with, of which the last is no half character."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return len(one[:low].rstrip("\ufffd"))
