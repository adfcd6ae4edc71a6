"""Rules that take tokens back or pass over them again, once more in plain Python, as `oracles`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from oracles import Block, Row, read, single


@dataclass
class Wino(Block):
    """Fills many masks, and takes back tokens that their shadow rows doubt.

    last: masks filled in the forward before; shadows: the rows that see a mask in place of a token.
    """

    threshold: float = 0.6
    verify_threshold: float = 0.9
    last: int = 30
    shadows: list[Row] = field(default_factory=list)

    def step(self, logits, shadow_logits) -> None:  # type: ignore[override]
        self.shadows = read(shadow_logits, self.ids, self.mask)
        super().step(logits)

    def decide(self, rows: list[Row]) -> None:
        masked, visible = self.masked(), self.visible()
        score = {i: row.prob for i, row in enumerate(rows)}
        chosen = [i for i in masked if self.above(rows[i].prob, single(self.threshold))]
        most = min(max(int(0.7 * len(masked)), 5), 20)
        if len(chosen) > most:
            chosen = self.first(chosen, most, score, rows)
        if not chosen:
            chosen = self.first(masked, 1, score, rows)
        doubted = []
        if len(chosen) > 1:
            held = {i: self.shadows[i].held for i in visible}
            doubted = [i for i in visible if self.above(single(self.verify_threshold), held[i])]
            if len(doubted) >= self.last:
                lowest = {i: -held[i] for i in doubted}
                doubted = self.first(doubted, self.last - 1, lowest, self.shadows)
        for i in chosen:
            self.ids[i] = rows[i].token
        for i in doubted:
            self.ids[i] = self.mask
        self.last = len(chosen)
        self.done = not self.masked()
