"""The tokens that say what becomes of a text, in place of standing in it."""

from __future__ import annotations

from typing import NamedTuple


class ControlTokens(NamedTuple):
    """Their ids; `insert` is None where labels say otherwise what is to be inserted."""

    delete: int
    insert: int | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for token in self if token is not None)
