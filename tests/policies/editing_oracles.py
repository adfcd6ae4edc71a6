"""Rules that take tokens back or pass over them again, once more in plain Python, as `oracles`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

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


@dataclass
class Saber(Block):
    """Fills what is surer than the mean of all fills, and takes back what gained the least.

    filled: probability of each position's last fill; before: best probabilities of the forward
    before, zeros at first.
    """

    least: int = 2
    mu: int = 8
    filled: dict[int, float] = field(default_factory=dict)
    before: dict[int, float] = field(default_factory=dict)

    def decide(self, rows: list[Row]) -> None:
        score = {i: row.prob for i, row in enumerate(rows)}
        mean = math.fsum(self.filled.values()) / len(self.filled) if self.filled else 1.0
        chosen = self.fill(rows, mean, self.least, score)
        count = max(self.least, len(chosen))
        for i in chosen:
            self.ids[i] = rows[i].token
            self.filled[i] = rows[i].prob
        if self.masked():
            taken = min(max(self.least // 2, math.ceil(count / self.mu)), count - 1)
            gains = {i: score[i] - self.before.get(i, 0.0) for i in self.visible()}
            lost = {i: -gain for i, gain in gains.items()}
            self.near = min(self.near, closest(list(gains.values()), taken))
            for i in self.first(list(gains), taken, lost, rows):
                self.ids[i] = self.mask
        self.before = score
        self.done = not self.masked()


def closest(values: list[float], count: int) -> float:
    """The distance of the `count` lowest to the others, which fp32 may order otherwise."""
    ranked = sorted(values)
    return ranked[count] - ranked[count - 1] if 0 < count < len(ranked) else math.inf


@dataclass
class ProSeCo(Block):
    """A predictor's step, or a pass of the corrector over what `shown` holds.

    begun: masks that the block began with; draft: the completed text under correction.
    """

    every: int = 2
    passes: int = 4
    threshold: float | None = None
    steps: int | None = None
    begun: int = 0
    taken: int = 0
    passed: int = 0
    draft: list[int] | None = None

    def __post_init__(self) -> None:
        self.begun = len(self.masked())

    @property
    def shown(self) -> list[int]:
        return self.ids if self.draft is None else self.draft

    def decide(self, rows: list[Row]) -> None:
        said = [
            row.token if free else x
            for row, free, x in zip(rows, self.editable, self.shown, strict=True)
        ]
        if self.draft is None:
            self.taken += 1
            if self.masked() and self.passes and self.taken % self.every == 0:
                self.draft = [
                    rows[i].token if x == self.mask else x for i, x in enumerate(self.ids)
                ]
                return
        else:
            self.passed += 1
            same = said == self.draft
            self.draft = said
            if not same and self.passed < self.passes:
                return
            for i in self.visible():
                self.ids[i] = self.draft[i]
            self.draft, self.passed = None, 0
        for i in self.chosen(rows):
            self.ids[i] = rows[i].token
        self.done = not self.masked()

    def chosen(self, rows: list[Row]) -> list[int]:
        masked, score = self.masked(), {i: row.prob for i, row in enumerate(rows)}
        if self.threshold is None:
            steps = self.steps or max(self.begun, 1)
            count = self.begun // steps + (self.taken - 1 < self.begun % steps)
            return self.first(masked, count, score, rows)
        bound = single(self.threshold)
        high = [i for i in masked if not self.above(bound, rows[i].prob)]
        return high or self.first(masked, 1, score, rows)


@dataclass
class Ranked(Block):
    """RemeDi: the positions with the highest logits stay or are filled, all others become masks."""

    steps: int | None = None
    logits: list[list[float]] = field(default_factory=list)

    def step(self, logits) -> None:
        self.logits = logits
        super().step(logits)

    def decide(self, rows: list[Row]) -> None:
        places = [i for i, free in enumerate(self.editable) if free]
        steps, size = self.steps or len(self.ids), len(places)
        count = size // steps * self.forwards
        if size % steps:
            count += max(0, self.forwards - (steps - size % steps))
        says = {i: rows[i].token if self.ids[i] == self.mask else self.ids[i] for i in places}
        kept = self.first(places, count, {i: self.logits[i][says[i]] for i in places}, rows)
        for i in places:
            self.ids[i] = says[i] if i in kept else self.mask
        self.done = self.forwards == steps


@dataclass
class Corrected(Block):
    """DSC: the time falls from 1 by 1 / steps, and rises by one mask's share for each remask.

    ring: the positions that were remasked last.
    """

    stride: int = 4
    budget: int = 2
    tau: float = 0.75
    ring: int = 4
    steps: int | None = None
    time: Fraction | None = None
    recent: list[int] = field(default_factory=list)

    def decide(self, rows: list[Row]) -> None:
        size = sum(self.editable)
        steps = self.steps or max(size, 1)
        if self.time is None:
            self.time = Fraction(len(self.masked()), size)
        final = self.time <= Fraction(1, steps) or self.forwards == 3 * (
            self.steps or len(self.ids)
        )
        left = Fraction(0) if final else self.time - Fraction(1, steps)
        masked, wrong = self.masked(), []
        count = len(masked) - math.floor(size * left + Fraction(1, 2))
        if not final and (self.forwards - 1) % self.stride == 0:
            error = {i: 1.0 - rows[i].held for i in self.visible()}
            wrong = [i for i in error if self.above(error[i], self.tau) and i not in self.recent]
            wrong = sorted(self.first(wrong, self.budget, error, rows))
        for i in self.first(masked, count, {i: row.prob for i, row in enumerate(rows)}, rows):
            self.ids[i] = rows[i].token
        for i in wrong:
            self.ids[i] = self.mask
        self.recent = (self.recent + wrong)[-self.ring :] if self.ring else []
        self.time = left + Fraction(len(wrong), size)
        self.done = final
