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


def spell_out(ids: list[int], tokenizer: Any, mask_token_id: int) -> list[int]:
    """Replace the mask token by the ordinary tokens of its text: no text can inject masks."""
    if mask_token_id not in ids:
        return ids
    text = tokenizer.convert_ids_to_tokens(mask_token_id)
    pieces = (text[:1], text[1:])  # no tokenizer finds an added token in two halves of it
    plain = [
        token
        for piece in pieces
        for token in tokenizer(piece, add_special_tokens=False)["input_ids"]
    ]
    return [piece for i in ids for piece in (plain if i == mask_token_id else [i])]
