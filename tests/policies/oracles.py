"""The decision rules once more: plain Python over lists, one block at a time, in float64.

Each class holds one block and is stepped with the logits [W][V] of its forward. `near` is how close
the last step came to deciding otherwise; a test that compares with fp32 stops where it is tiny.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Row:
    """Statistics of one position: best token that is not the mask, its probability, that of the
    token it holds, the lead over the second best, the entropy in nats."""

    token: int
    prob: float
    held: float
    lead: float
    entropy: float
    gap: float  # of logits, to the second best
    key: tuple  # equal only for rows whose numbers are equal on every machine


def read(logits, ids, mask, temperature=1.0) -> list[Row]:
    """The mask is never the best token, and stays in the denominator."""
    rows = []
    for z, current in zip(np.asarray(logits, dtype=np.float64).tolist(), ids, strict=True):
        scaled = [value / temperature for value in z]
        top = max(scaled)
        weights = [math.exp(value - top) for value in scaled]
        total = math.fsum(weights)
        probs = [weight / total for weight in weights]
        first, second = sorted((t for t in range(len(z)) if t != mask), key=lambda t: -z[t])[:2]
        rows.append(
            Row(
                token=first,
                prob=probs[first],
                held=probs[current] if 0 <= current < len(z) else 0.0,
                lead=probs[first] - probs[second],
                entropy=-math.fsum(p * math.log(p) for p in probs if p > 0.0),
                gap=z[first] - z[second] or math.inf,  # an exact tie goes to the lowest id
                key=(tuple(z), current),
            )
        )
    return rows


def single(value: float | None) -> float:
    """A setting as the device holds it: fp32, None = never reached."""
    return math.inf if value is None else float(np.float32(value))


@dataclass
class Block:
    """ids [W] with `mask` where undecided; positions that are not editable never change."""

    ids: list[int]
    editable: list[bool]
    mask: int
    done: bool = False
    forwards: int = 0
    m2t_commits: int = 0
    t2t_edits: int = 0
    remasks: int = 0
    near: float = field(default=math.inf, init=False)

    def masked(self) -> list[int]:
        return [i for i, x in enumerate(self.ids) if self.editable[i] and x == self.mask]

    def visible(self) -> list[int]:
        return [i for i, x in enumerate(self.ids) if self.editable[i] and x != self.mask]

    def step(self, logits) -> None:
        """One forward and its decision; nothing on a block that is done."""
        self.near = math.inf
        if self.done or self.spent():
            self.done = True
            return
        self.forwards += 1
        rows = read(logits, self.ids, self.mask)
        self.near = min((row.gap for row, free in zip(rows, self.editable, strict=True) if free))
        before = list(self.ids)
        self.decide(rows)
        for old, new in zip(before, self.ids, strict=True):
            self.m2t_commits += old == self.mask != new
            self.remasks += old != self.mask == new
            self.t2t_edits += self.mask not in (old, new) and old != new

    def spent(self) -> bool:
        """Whether the block may not take another forward."""
        return False

    def decide(self, rows: list[Row]) -> None:
        raise NotImplementedError

    def above(self, value: float, bound: float) -> bool:
        self.near = min(self.near, abs(value - bound))
        return value > bound

    def first(self, places: list[int], count: int, score: dict, rows: list[Row]) -> list[int]:
        """The `count` places with the highest scores; equal scores: the lowest place first."""
        order = sorted(places, key=lambda i: (-score[i], i))
        if 0 < count < len(order):
            for i in order[count:]:
                for j in order[:count]:
                    if rows[i].key != rows[j].key:
                        self.near = min(self.near, score[j] - score[i])
        return order[:count]

    def fill(self, rows: list[Row], threshold: float, least: int, score: dict) -> list[int]:
        """Masks above the threshold, if at least `least` are; else the first ones by score."""
        masked = self.masked()
        high = [i for i in masked if self.above(rows[i].prob, single(threshold))]
        return high if len(high) >= least else self.first(masked, least, score, rows)


@dataclass
class JointThreshold(Block):
    """Commits and edits are judged on the same forward and the old ids."""

    threshold: float = 0.7
    editing_threshold: float | None = 0.5
    max_post_steps: int = 16
    num_to_transfer: int = 1
    post: int = 0

    def spent(self) -> bool:
        return not self.masked() and self.post >= self.max_post_steps

    def decide(self, rows: list[Row]) -> None:
        had = bool(self.masked())
        self.post += not had
        score = {i: row.prob for i, row in enumerate(rows)}
        edits = [
            i
            for i in self.visible()
            if rows[i].token != self.ids[i]
            and self.above(rows[i].prob, single(self.editing_threshold))
        ]
        for i in self.fill(rows, self.threshold, self.num_to_transfer, score) + edits:
            self.ids[i] = rows[i].token
        self.done = (not had and not edits) or self.spent()


@dataclass
class Remask(Block):
    """Token to mask: tokens that a trigger doubts become masks again, `cap` times at most.

    previous: per position, the probability of its token under the forward before; None where the
    block has no history. A forward that sees no visible token drops the history and all counts.
    """

    trigger: str = "low_prob"
    tau: float = 0.3
    cap: int = 1
    share: float = 0.25
    threshold: float = 0.7
    max_post_steps: int = 16
    num_to_transfer: int = 1
    post: int = 0
    counts: list[int] = field(default_factory=list)
    previous: list[float] | None = None

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.ids)

    def spent(self) -> bool:
        return not self.masked() and self.post >= self.max_post_steps

    def decide(self, rows: list[Row]) -> None:
        had, visible = bool(self.masked()), self.visible()
        self.post += not had
        filled = self.fill(
            rows,
            self.threshold,
            self.num_to_transfer,
            {i: row.prob for i, row in enumerate(rows)},
        )
        doubted = self.doubted(rows, visible)
        for i in filled:
            self.ids[i] = rows[i].token
        for i in doubted:
            self.ids[i] = self.mask
            self.counts[i] += 1
        if visible:
            self.previous = [r.prob if i in filled else r.held for i, r in enumerate(rows)]
        else:
            self.previous, self.counts = None, [0] * len(self.ids)
        self.done = (not had and not doubted) or self.spent()

    def doubted(self, rows: list[Row], visible: list[int]) -> list[int]:
        chosen, score = [], {}
        for i in visible:
            row = rows[i]
            if self.trigger == "low_prob":
                score[i] = row.held
                doubt = self.above(single(self.tau), row.held)
            elif self.trigger == "t2t":
                score[i] = 1.0 - row.prob
                doubt = row.token != self.ids[i] and self.above(row.prob, single(self.tau))
            else:
                drop = self.previous[i] - row.held if self.previous else -math.inf
                score[i] = -drop
                doubt = self.above(drop, single(self.tau))
            if doubt and self.counts[i] < self.cap:
                chosen.append(i)
        most = max(1, int(len(visible) * self.share))
        if self.share < 1 and len(chosen) > most:
            chosen = self.first(chosen, most, {i: -score[i] for i in chosen}, rows)
        return chosen


@dataclass
class LowConfidence(Block):
    """Masks only: those above the threshold, or the first ones by rank that a schedule asks for."""

    threshold: float = 0.95
    steps: int | None = None
    rank: str = "confidence"
    schedule: str = "even"
    eps: float = 1e-3

    def decide(self, rows: list[Row]) -> None:
        score = {i: self.score(row) for i, row in enumerate(rows)}
        if self.schedule == "even":
            chosen = self.fill(rows, self.threshold, self.share_of_step(), score)
        else:
            masked = self.masked()
            chosen = self.first(masked, self.times(len(masked)), score, rows)
        for i in chosen:
            self.ids[i] = rows[i].token
        self.done = not self.masked()

    def score(self, row: Row) -> float:
        scores = {"confidence": row.prob, "margin": row.lead, "entropy": -row.entropy}
        return scores[self.rank]

    def share_of_step(self) -> int:
        width, steps = len(self.ids), self.steps or len(self.ids)
        return width // steps + (self.forwards - 1 < width % steps)

    def times(self, masked: int) -> int:
        """Dream: times fall linearly from 1 to eps; a step fills its share of what is masked."""
        steps = self.steps or len(self.ids)
        if self.forwards >= steps:
            return masked
        now = 1 + (self.eps - 1) * (self.forwards - 1) / steps
        then = 1 + (self.eps - 1) * self.forwards / steps
        share = masked * (1 - then / now)
        self.near = min(self.near, abs(share - round(share)) if masked else math.inf)
        return int(share)


@dataclass
class Confidence(Block):
    """Fast-dLLM: the masks that are sure enough, and the best one in any case."""

    rule: str = "threshold"
    threshold: float = 0.9
    factor: float = 1.0
    steps: int | None = None
    quirk: bool = False
    began: int = 0

    def decide(self, rows: list[Row]) -> None:
        masked = self.masked()
        if self.forwards == 1:
            self.began = len(masked)
        score = {i: row.prob for i, row in enumerate(rows)}
        for i in self.first(masked, self.count([rows[i].prob for i in masked]), score, rows):
            self.ids[i] = rows[i].token
        self.done = not self.masked()

    def count(self, probs: list[float]) -> int:
        if self.rule == "schedule":
            steps = self.steps or len(self.ids)
            return self.began // steps + (self.forwards - 1 < self.began % steps)
        if self.rule == "threshold":
            bound = single(self.threshold)
            return max(1, sum(not self.above(bound, prob) for prob in probs))
        for j, prob in enumerate(sorted(probs, reverse=True)[1:], 2):
            if self.above(1 - single(self.factor) / (j + 1), prob):
                return j if self.quirk and j == len(probs) else j - 1
        return len(probs)


@dataclass
class EntropyBound(Block):
    """A canvas of tokens, no masks: the surest positions keep what was drawn for them, the others
    are drawn at random, which is for the caller to compare: `accepted` are the positions that hold
    their draw after a step. A stable block ends with its best tokens; one out of steps does not.
    """

    bound: float = 0.1
    t_min: float = 0.4
    t_max: float = 0.8
    steps: int = 48
    stability: int = 1
    confidence: float = 0.005
    accepted: list[int] = field(default_factory=list)
    stable: bool = False
    rows: list[Row] = field(default_factory=list)
    best: list[list[int]] = field(default_factory=list)

    def temperature(self) -> float:
        return self.t_min + (self.t_max - self.t_min) * (self.steps - self.forwards) / self.steps

    def step(self, logits) -> None:
        if self.done:
            return
        self.rows = read(logits, self.ids, self.mask, self.temperature())
        places = [i for i, free in enumerate(self.editable) if free]
        self.near = min(self.rows[i].gap for i in places)
        score = {i: -self.rows[i].entropy for i in places}
        total, count = 0.0, 0
        for surest in sorted(score.values(), reverse=True):
            if count and self.above(total, single(self.bound)):
                break
            total, count = total - surest, count + 1
        self.accepted = self.first(places, count, score, self.rows)
        self.forwards += 1
        canvas = [self.rows[i].token for i in places]
        mean = math.fsum(self.rows[i].entropy for i in places) / len(places)
        sure = self.above(single(self.confidence), mean)
        recent = self.best[-self.stability :] if self.stability else []
        steady = len(recent) == self.stability and all(old == canvas for old in recent)
        self.best.append(canvas)
        self.stable = steady and sure
        self.done = self.stable or self.forwards >= self.steps


@dataclass
class SelfCorrection(Block):
    """The surest tokens among those that differ from what is held are written. `draws`: tokens in
    place of the best ones. Masks are filled first, `k` a forward, and no step counts until then.
    """

    temperature: float = 0.1
    k: int = 1
    patience: int = 32
    max_steps: int = 128
    greedy: bool = False
    steps: int = 0
    most_agreed: int = 0
    waited: int = 0
    draws: list[int] | None = None

    def step(self, logits) -> None:
        self.near = math.inf
        if self.done:
            return
        rows = read(logits, self.ids, self.mask, self.temperature)
        wanted, probs = [row.token for row in rows], [row.prob for row in rows]
        if self.draws is not None and not self.greedy:
            wanted = self.draws
            probs = [row.held for row in read(logits, wanted, self.mask, self.temperature)]
        self.forwards += 1
        free = [i for i, may in enumerate(self.editable) if may]
        masked, before = self.masked(), list(self.ids)
        places = masked or [i for i in free if wanted[i] != self.ids[i]]
        self.near = min(row.gap for row in rows)
        for i in self.first(places, self.k, dict(enumerate(probs)), rows):
            self.ids[i] = wanted[i]
        if not masked:
            self.steps += 1
            agreed = sum(self.ids[i] == rows[i].token for i in free)
            self.waited = 0 if agreed > self.most_agreed else self.waited + 1
            self.most_agreed = max(agreed, self.most_agreed)
            if self.waited > self.patience:
                self.ids = list(before)
            self.done = self.ids == before or self.steps >= self.max_steps
        for old, new in zip(before, self.ids, strict=True):
            self.m2t_commits += old == self.mask != new
            self.t2t_edits += self.mask not in (old, new) and old != new
