"""Holes in a text, as people type them."""

from __future__ import annotations

import re

# [MASK:8] is a hole of eight tokens, [MASK] of one; in small letters too.
_HOLE = re.compile(r"\[MASK(?::([^\[\]]*))?\]", re.IGNORECASE)
_LENGTH = re.compile(r"0*[1-9][0-9]{0,5}")


def split_at_holes(text: str, mask_text: str) -> tuple[str, str]:
    """(text before the first hole, the rest with `mask_text` for every token of a hole).

    `mask_text` is a hole of one token itself. Raises ValueError where there is no hole, and for one
    without a length that can be read.
    """

    def masks(hole: re.Match[str]) -> str:
        length = (hole[1] or "").strip() if hole[1] is not None else "1"
        if not _LENGTH.fullmatch(length):
            raise ValueError(
                f"{hole[0]} is no hole: write its number of tokens, 1 to 999999, as in [MASK:8]"
            )
        return mask_text * int(length)

    filled = _HOLE.sub(masks, text)
    start = filled.find(mask_text)
    if start < 0:
        raise ValueError(
            f"the text has no hole: write [MASK:8] where 8 tokens are missing, or {mask_text} for "
            "each of them"
        )
    return filled[:start], filled[start:]
