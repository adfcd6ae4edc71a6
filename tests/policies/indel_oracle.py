"""LLaDA2.2's rule once more: plain Python over lists, one block at a time, in float64.

Written from the report and from what SGLang's `JointThresholdInDel` does, not from our rule. `near`
is how close the last step came to deciding otherwise, in probabilities or in logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


def softmax(z: list[float]) -> list[float]:
    top = max(z)
    weights = [math.exp(value - top) for value in z]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def single(value: float | None) -> float:
    return math.inf if value is None else float(np.float32(value))


@dataclass
class InDelBlock:
    """A block of ids; where `free` is False stands prompt, or text that is kept.

    original  whether the mask of a position is one that the block began with; it moves along
    inputs    the blocks that the steps so far saw; written: what they wrote, by position
    """

    ids: list[int]
    free: list[bool]
    mask: int
    delete: int
    insert: int
    threshold: float = 0.7
    editing_threshold: float | None = 0.5
    max_post_steps: int = 16
    original: list[bool] = field(default_factory=list)
    post: int = 0
    forwards: int = 0
    done: bool = False
    inputs: list[list[int]] = field(default_factory=list)
    written: dict[int, list[int]] = field(default_factory=dict)
    fills: int = 0
    edits: int = 0
    remasks: int = 0
    inserts: int = 0
    deletes: int = 0
    loops: int = 0
    near: float = math.inf

    def __post_init__(self) -> None:
        cells = zip(self.ids, self.free, strict=True)
        self.original = [x == self.mask and free for x, free in cells]

    def best(self, z: list[float], without: set[int]) -> int | None:
        """The best id that is not excluded, the lowest on ties; None where there is none."""
        left = [t for t in range(len(z)) if t not in without and z[t] > -math.inf]
        left.sort(key=lambda t: (-z[t], t))
        if len(left) > 1 and z[left[0]] != z[left[1]]:
            self.near = min(self.near, z[left[0]] - z[left[1]])
        return left[0] if left else None

    def above(self, value: float, bound: float) -> bool:
        self.near = min(self.near, abs(value - bound))
        return value > bound

    def step(self, logits: list[list[float]]) -> None:
        self.near = math.inf
        if self.done:
            return
        places = [i for i, free in enumerate(self.free) if free]
        masked = [i for i in places if self.ids[i] == self.mask]
        first = [i for i in masked if self.original[i]]
        self.forwards += 1
        if not first:
            self.post += 1
        most = self.max_post_steps
        over_budget = self.post >= most if most > 0 else not first
        final = over_budget or self.forwards > len(self.ids) + most

        said, sure = {}, {}
        for i in places:
            banned = {self.mask} if i in first and not final else set()
            said[i] = self.best(logits[i], banned)
            assert said[i] is not None
            sure[i] = softmax(logits[i])[said[i]]

        fill = masked
        if first and not final:
            need = 1 + len(masked) - len(first)
            fill = [i for i in masked if self.above(sure[i], single(self.threshold))]
            if len(fill) < need:
                fill = sorted(masked, key=lambda i: (-sure[i], i))[:need]
                for i in set(masked) - set(fill):
                    for j in fill:
                        if logits[i] != logits[j]:  # else a tie on every machine
                            self.near = min(self.near, sure[j] - sure[i])
        if most == 0 and first and set(first) <= set(fill):
            final, fill = True, masked

        edit = [
            i
            for i in places
            if i not in masked
            and said[i] != self.ids[i]
            and self.above(sure[i], single(self.editing_threshold))
        ]
        write = sorted([*fill, *edit])
        if not write:
            self.done = True
            return
        if final:
            for i in write:
                if said[i] in (self.mask, self.delete, self.insert):
                    said[i] = self.best(logits[i], {self.mask, self.delete, self.insert})
        elif self.ids in self.inputs:
            changing = [i for i in write if said[i] != self.ids[i]]
            if changing:
                chosen = min(changing, key=lambda i: (sure[i], i))
                for i in changing:
                    if i != chosen and logits[i] != logits[chosen]:
                        self.near = min(self.near, sure[i] - sure[chosen])
                banned = set(self.written.get(chosen, []))
                if chosen in first:
                    banned.add(self.mask)
                other = self.best(logits[chosen], banned)
                self.loops += 1
                if other is not None:  # else every id was written here before
                    said[chosen] = other
        self.inputs.append(list(self.ids))
        for i in write:
            self.written.setdefault(i, []).append(said[i])
        self.rewrite({i: said[i] for i in write})
        self.done = final

    def rewrite(self, written: dict[int, int]) -> None:
        """Write what stands for itself, then let DELETE and INSERT act, in each run that is free.

        DELETE emits nothing, INSERT a new mask and then what stood there before.
        """
        acts = any(token in (self.delete, self.insert) for token in written.values())
        ids, original = [], []
        run: list[tuple[int, bool]] = []
        for i, held in enumerate(self.ids):
            token = written.get(i, held)
            if not self.free[i]:
                self.end(run, ids, original, i)
                run = []
                ids.append(held)
                original.append(self.original[i])
            elif acts and token == self.delete:
                self.deletes += 1
            elif acts and token == self.insert:
                self.inserts += 1
                run += [(self.mask, False), (held, self.original[i])]
            else:
                self.fills += held == self.mask != token
                self.remasks += held != self.mask == token
                self.edits += held != token and self.mask not in (held, token)
                run.append((token, self.original[i]))
        self.end(run, ids, original, len(self.ids))
        self.ids, self.original = ids, original

    def end(self, run, ids: list[int], original: list[bool], end: int) -> None:
        """A run is cut where it ends, or filled up with new masks."""
        room = end - len(ids)
        run = [*run[:room], *[(self.mask, False)] * (room - len(run))]
        ids += [token for token, _ in run]
        original += [flag for _, flag in run]
