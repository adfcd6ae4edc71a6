"""Committed ids -> text that only ever grows: whole characters, nothing of a stop text."""

from __future__ import annotations

from typing import Any

INCOMPLETE = "\ufffd"  # what byte-level tokenizers decode half a character to


class Stops:
    """Texts that end a generation: `texts`; those that are special tokens do by their id: `ids`."""

    def __init__(self, tokenizer: Any, stops: list[str]) -> None:
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        special |= {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self.ids = {special[stop] for stop in stops if stop in special}
        self.texts = [stop for stop in stops if stop not in special]


class TextTracker:
    """Follows one request's committed ids.

    text    the text so far, special tokens and stop text removed
    """

    def __init__(self, tokenizer: Any, stops: Stops) -> None:
        self.tokenizer = tokenizer
        self.stop_ids, self.stops = stops.ids, stops.texts
        self.text = ""
        self.emitted = 0
        self.stopped = False

    def update(self, ids: list[int]) -> int | None:
        """Take all committed ids; returns how many to keep when a stop text is complete."""
        kept = next((i + 1 for i, token in enumerate(ids) if token in self.stop_ids), None)
        ids = ids if kept is None else ids[:kept]
        self.text = self.decode(ids)
        if self._first_stop(self.text) is not None:
            kept = self._completed_by(ids)
            self.text = self.decode(ids[:kept])  # of several stop texts, the first to be complete
            self.text = self.text[: self._first_stop(self.text)]
        self.stopped = kept is not None
        return kept

    def take(self, final: bool) -> str:
        """The next piece of text that can no longer change; everything that is left if `final`."""
        safe = len(self.text)
        if not (final or self.stopped):
            safe = len(self.text.rstrip(INCOMPLETE))
            safe -= self._stop_prefix(self.text[:safe])
        piece = self.text[self.emitted : safe]
        self.emitted += len(piece)
        return piece

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _first_stop(self, text: str) -> int | None:
        return min((text.find(stop) for stop in self.stops if stop in text), default=None)

    def _completed_by(self, ids: list[int]) -> int:
        """Least number of ids whose text holds a stop text."""
        low, high = 1, len(ids)
        while low < high:
            middle = (low + high) // 2
            if self._first_stop(self.decode(ids[:middle])) is None:
                low = middle + 1
            else:
                high = middle
        return low

    def _stop_prefix(self, text: str) -> int:
        """Length of the longest end of `text` that may become a stop text."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self.stops):
                return length
        return 0
