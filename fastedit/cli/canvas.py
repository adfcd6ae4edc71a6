"""The canvas of one request, followed through the events of `Decoder.stream(..., drafts=True)`.

Each position is a mask, a draft (may still change), edited (changed in this block), remasked (a
mask again), inserted (a mask that was put between others) or committed. Where positions were taken
out in the last forward, there is a sign for each.
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
INSERTED, DELETED = "inserted", "deleted"
# One cell wide in every terminal, also where East Asian ambiguous characters take two.
SIGNS = {MASK: "░", REMASKED: "↺", INSERTED: "⁺", DELETED: "⌫"}
SPECIAL_SIGN, NEWLINE_SIGN = "∎", "↵"


@dataclass
class Canvas:
    """Committed text, the active block, and the counts so far.

    ids, states  of the active block's tokens, prompt excluded
    within       how many of them may be returned: the others are counted, as in `DecodeStats`, but
                 neither shown nor called tokens; None: all
    committed    tokens in the blocks before; block: the active one, as of `Event`
    edits        tokens that became other tokens, those behind the end included
    remasks      tokens that became masks again, as well
    inserts, deletes  positions that were put in and taken out, as well; moves: whether the policy
                 does that. A block keeps its length: what it loses at its end is not counted
    gaps         how many positions were taken out before each one, in the last forward
    """

    tokenizer: Any
    mask_token_id: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    within: int | None = None
    committed: int = 0
    block: int = 0
    forwards: int = 0
    edits: int = 0
    remasks: int = 0
    inserts: int = 0
    deletes: int = 0
    moves: bool = False
    gaps: dict[int, int] = field(default_factory=dict)

    def update(self, event: Event) -> None:
        """Take the next "draft" or "commit" event."""
        self.block = event.block
        if event.kind == "commit":
            self.text += event.text
            self.committed += len(event.ids)
            self.ids, self.states, self.gaps = [], [], {}
        elif event.kind == "draft":
            self.forwards += 1
            self.within = event.within
            # A text that has shrunk in its first forward had more than it has now.
            held = max([len(event.ids), *(old + 1 for old in event.moved or ())])
            before = self.ids or [self.mask_token_id] * held
            states = self.states or [MASK] * held
            if event.moved is not None:
                before, states = self._moved(event, event.moved, before, states)
            self.ids = list(event.ids)
            self.states = [
                self._next_state(*change) for change in zip(before, event.ids, states, strict=True)
            ]

    def _moved(
        self, event: Event, moved: list[int], ids: list[int], states: list[str]
    ) -> tuple[list[int], list[str]]:
        """`ids` and `states` of before this forward, each where it stands now."""
        self.moves = True
        self.inserts += len(event.inserted)
        self.deletes += len(event.deleted)
        self.gaps = {}
        for place in event.deleted:
            behind = next((i for i, old in enumerate(moved) if old > place), len(moved))
            self.gaps[behind] = self.gaps.get(behind, 0) + 1
        before = [MASK if old < 0 else states[old] for old in moved]
        for i, old in enumerate(moved[1:]):
            if moved[i] < 0 and old in event.inserted:
                before[i] = INSERTED
        return [self.mask_token_id if old < 0 else ids[old] for old in moved], before

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
        shown = list(zip(self.ids, self.states, strict=True))[: self.within]
        cells: list[tuple[int, str]] = []
        for place in range(len(shown) + 1):
            cells += [(-1, DELETED)] * self.gaps.get(place, 0) + shown[place : place + 1]
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
        moves = f"inserts {self.inserts:2}  deletes {self.deletes:2}  " if self.moves else ""
        return (
            f"forward {self.forwards:3}  block {self.block}  tokens {self.tokens:3}  edits "
            f"{self.edits:2}  remasks {self.remasks:2}  {moves}{rate:4.1f} tokens per forward"
        )
