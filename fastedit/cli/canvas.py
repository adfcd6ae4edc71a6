"""The canvas of one request, followed through the events of `Decoder.stream(..., drafts=True)`.

Each position is a mask, a draft (may still change), edited (changed in this block), remasked (a
mask again) or committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fastedit.cli.terminal import printable
from fastedit.prompts.tokens import special_ids

if TYPE_CHECKING:
    from fastedit.results import Event

MASK, DRAFT, EDITED, REMASKED = "mask", "draft", "edited", "remasked"
# One cell wide in every terminal, also where East Asian ambiguous characters take two.
SIGNS = {MASK: "░", REMASKED: "↺"}
SPECIAL_SIGN, NEWLINE_SIGN = "∎", "↵"


@dataclass
class Canvas:
    """Committed text, the active block, and the counts so far.

    ids, states  of the active block's tokens, prompt excluded
    within       how many of them may be returned: the others are counted, as in `DecodeStats`, but
                 neither shown nor called tokens; None: all
    committed    tokens in the blocks before; block: the active one, counted from 1
    edits        tokens that became other tokens, those behind the end included
    remasks      tokens that became masks again, as well
    """

    tokenizer: Any
    mask_token_id: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    within: int | None = None
    committed: int = 0
    first_block: int | None = None
    block: int = 0
    forwards: int = 0
    edits: int = 0
    remasks: int = 0

    def update(self, event: Event) -> None:
        """Take the next "draft" or "commit" event."""
        if self.first_block is None:  # the blocks before it hold nothing but prompt
            self.first_block = event.block
        self.block = event.block - self.first_block + 1
        if event.kind == "commit":
            self.text += event.text
            self.committed += len(event.ids)
            self.ids, self.states = [], []
        elif event.kind == "draft":
            self.forwards += 1
            self.within = event.within
            before = self.ids or [self.mask_token_id] * len(event.ids)
            states = self.states or [MASK] * len(event.ids)
            self.ids = list(event.ids)
            self.states = [
                self._next_state(*change) for change in zip(before, event.ids, states, strict=True)
            ]

    def _next_state(self, before: int, now: int, state: str) -> str:
        if before == now:
            return state
        if now == self.mask_token_id:
            self.remasks += 1
            return REMASKED
        if before == self.mask_token_id:
            return DRAFT
        self.edits += 1
        return EDITED

    @property
    def tokens(self) -> int:
        """Tokens written so far, up to the first that ends the text."""
        special = special_ids(self.tokenizer) - {self.mask_token_id}
        ends = (i + 1 for i, token in enumerate(self.ids[: self.within]) if token in special)
        end = next(ends, self.within)
        return self.committed + sum(state not in SIGNS for state in self.states[:end])

    def pieces(self, newline: str = NEWLINE_SIGN) -> Iterator[tuple[str, str]]:
        """(state, text) of the active block, neighbours in one state together.

        newline: what stands for a line break. Tokens are decoded in runs, so a character that spans
        two of them shows whole.
        """
        special = special_ids(self.tokenizer)
        cells = zip(self.ids[: self.within], self.states[: self.within], strict=True)
        for (state, is_special), run in groupby(cells, lambda c: (c[1], c[0] in special)):
            ids = [token for token, _ in run]
            if state in SIGNS:
                yield state, SIGNS[state] * len(ids)
            elif is_special:
                yield state, SPECIAL_SIGN * len(ids)
            else:
                text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
                yield state, printable(text, newline)

    def line(self) -> str:
        """The active block in one line without styles: edited runs stand in brackets."""
        return "".join(f"[{text}]" if state == EDITED else text for state, text in self.pieces())

    def status(self) -> str:
        rate = self.tokens / self.forwards if self.forwards else 0.0
        return (
            f"forward {self.forwards:3}  block {self.block}  tokens {self.tokens:3}  "
            f"edits {self.edits:2}  remasks {self.remasks:2}  {rate:4.1f} tokens per forward"
        )
