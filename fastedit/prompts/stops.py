"""Texts that end a generation, found in one pass over its text, however many there are."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

from fastedit.prompts.spelling import Spelling


class Stops:
    """Texts that end a generation, for all requests of a call with the same ones.

    texts     those that are looked for in the text
    ids       special tokens, which end a generation by their id
    search    finds `texts`
    spelling  how the tokenizer's ids become text
    """

    def __init__(self, tokenizer: Any, stops: list[str]) -> None:
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        special |= {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self.ids = {special[stop] for stop in stops if stop in special}
        self.texts = [stop for stop in stops if stop not in special]
        self.search = _search(tuple(self.texts))
        self.spelling = Spelling(tokenizer)


class Search:
    """An automaton of Aho and Corasick: a state is the longest end of the text that begins a stop.

    State 0 is that of an empty text. A step costs the same for one text and for thousands.
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]  # state of the next shorter end that begins a stop
        self._longest = [0]  # characters of the longest stop that ends here; 0: none does
        self.held = [0]  # characters of the end that a state stands for
        for text in texts:
            self._add(text)
        self._link()

    def _add(self, text: str) -> None:
        state = 0
        for char in text:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self._longest.append(0)
                self.held.append(self.held[state] + 1)
            state = self._next[state][char]
        self._longest[state] = len(text)

    def _link(self) -> None:
        """Breadth first, so that everything shorter is linked already."""
        states = deque(self._next[0].values())
        while states:
            state = states.popleft()
            for char, longer in self._next[state].items():
                self._shorter[longer] = self._step(self._shorter[state], char)
                self._longest[longer] = (
                    self._longest[longer] or self._longest[self._shorter[longer]]
                )
                states.append(longer)

    def _step(self, state: int, char: str) -> int:
        while state and char not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(char, 0)

    def scan(self, state: int, text: str) -> tuple[int, int | None]:
        """(state behind `text`, where in it the first stop begins; None: none is complete).

        state: behind what was before `text`. The place is negative where the stop began there.
        """
        first: int | None = None
        for end, char in enumerate(text, start=1):
            state = self._step(state, char)
            if self._longest[state]:
                start = end - self._longest[state]
                first = start if first is None else min(first, start)
        return state, first


_search = lru_cache(maxsize=8)(Search)  # thousands of texts take a tenth of a second to build
