"""Committed ids -> text that only ever grows: whole characters, nothing of a stop text."""

from __future__ import annotations

from copy import copy
from typing import Any

from fastedit.prompts.spelling import BytesText, Spelling, TokensText, WholeText
from fastedit.prompts.stops import Stops


class TextTracker:
    """Follows one request's committed ids, at a cost that is linear in their number.

    Nothing is decoded before somebody asks: `take` for the pieces of a stream, stop texts for what
    they are looked for in, `text` for the whole.
    """

    def __init__(self, tokenizer: Any, stops: Stops) -> None:
        self.tokenizer, self.stops = tokenizer, stops
        self.emitted = 0
        self._restart()

    def _restart(self) -> None:
        self.ids: list[int] = []  # all of the request; what lies behind `kept` is cut off
        self.kept: int | None = None
        self.cut: int | None = None  # where in the text the stop text begins
        self._seen = 0  # ids that were compared with those of stops
        spelling = self.stops.spelling
        self._grown: BytesText | TokensText | WholeText
        if spelling.kind == Spelling.BYTES:
            self._grown = BytesText(spelling)
        elif spelling.kind == Spelling.TOKENS:
            self._grown = TokensText(spelling, self.decode)
        else:
            self._grown = WholeText(self.decode)
        self._settled = 0  # characters
        self._pieces: list[str] = []  # settled text that was not taken
        self._state = 0  # of the search for stop texts, behind the settled text

    @property
    def text(self) -> str:
        """The text so far, special tokens and stop text removed."""
        ids = self.ids if self.kept is None else self.ids[: self.kept]
        return self.decode(ids)[: self.cut]

    @property
    def stopped(self) -> bool:
        return self.kept is not None

    def update(self, ids: list[int], final: bool = False) -> int | None:
        """Take all committed ids; returns how many to keep when a stop text is complete.

        final: no more ids will come, so that text which waited for them is as it stands
        """
        if len(ids) < self._seen:  # half of a commit was taken back
            self._restart()
        self.ids, new, self._seen = ids, range(self._seen, len(ids)), len(ids)
        kept = next((i + 1 for i in new if ids[i] in self.stops.ids), None)
        if self.stops.texts:
            end = len(ids) if kept is None else kept
            kept = self._grow(end, final or kept is not None) or kept
        self.kept = kept
        return kept

    def take(self, final: bool) -> str:
        """The next piece of text that can no longer change; everything that is left if `final`."""
        if final or self.stopped:
            piece = self.text[self.emitted :]
        else:
            if not self.stops.texts:
                self._grow(len(self.ids), False)
            settled = "".join(self._pieces)
            safe = len(settled) - self.stops.search.held[self._state]
            piece, self._pieces = settled[:safe], [settled[safe:]]
        self.emitted += len(piece)
        return piece

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _grow(self, end: int, final: bool) -> int | None:
        """Settle what can be of `ids[:end]`; returns how many ids hold a stop text, if any do."""
        before, state = copy(self._grown), self._state
        text = self._grown.settle(self.ids, end, final)
        self._state, stop = self.stops.search.scan(state, text)
        if stop is None and self.stops.texts:
            stop = self.stops.search.scan(self._state, self._grown.rest(self.ids, end))[1]
        if stop is not None:
            return self._stop(before, state, end)
        self._settled += len(text)
        self._pieces.append(text)
        return None

    def _stop(self, before: Any, state: int, end: int) -> int:
        """Least number of ids whose text holds a stop text, and where its first one begins.

        before, state: as they were when none was complete
        """

        def stop(count: int) -> int | None:
            return self.stops.search.scan(state, before.text(self.ids, count))[1]

        low, high = before.start, end
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if stop(middle) is None else (low, middle)
        self.cut = self._settled + (stop(high) or 0)
        return high
