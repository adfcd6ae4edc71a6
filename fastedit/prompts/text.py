"""Ids of texts, in which no text can spell the mask token."""

from __future__ import annotations

from typing import Any


def check_unicode(text: str) -> None:
    """Raises ValueError for half a character, which tokenizers do not read.

    Python makes such of bytes that are no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is {text[error.start]!r}, half of one: decode the text's "
            "bytes with the encoding that they are in"
        ) from None


def spell_out(ids: list[int], tokenizer: Any, *never: int) -> list[int]:
    """Replace the tokens `never`, such as the mask, by the ordinary tokens of their texts: no text
    can inject masks."""
    for token in set(never).intersection(ids):
        text = tokenizer.convert_ids_to_tokens(token)
        pieces = (text[:1], text[1:])  # no tokenizer finds an added token in two halves of it
        plain = [
            part
            for piece in pieces
            for part in tokenizer(piece, add_special_tokens=False)["input_ids"]
        ]
        ids = [part for i in ids for part in (plain if i == token else [i])]
    return ids
