"""The search: settings are drawn, and the poorer ones are given up after a few questions.

Chosen on one half of the questions, the front is scored on the other half: the best of many noisy
numbers is better than what it stands for, so those that it was chosen by are no measure of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from fastedit.evaluation.tuning.measure import Measure, Tally
from fastedit.evaluation.tuning.pareto import beats, better_half, front
from fastedit.evaluation.tuning.questions import Question
from fastedit.evaluation.tuning.record import Record
from fastedit.evaluation.tuning.space import Space

if TYPE_CHECKING:
    from fastedit.policies import Policy

REPORT_VERSION = 1  # of the keys, and of what they mean
FEWEST = 4  # questions: two halves, and something to choose by
COHORT = 8  # settings that compete with each other
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Limits:
    """Where a search ends, whichever comes first.

    candidates  settings that are tried, the default among them
    forwards    of all requests together, those on the held-out half included; what has begun is
                finished, and the default is measured in any case
    minutes     of this run. Only with this limit does the front depend on the machine

    Raises ValueError for a limit that allows nothing.
    """

    candidates: int = 32
    forwards: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("candidates", "forwards", "minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0; got {value}")


class Search:
    """Settings of `space` on `items`, which the seed deals into halves.

    measure  decodes; its results are the same whenever, and with whatever else, they are taken
    record   what earlier runs have measured is not measured again, and counts as if it were: the
             run that goes on ends where one from the start would
    """

    def __init__(
        self,
        space: Space,
        items: list[Question],
        measure: Measure,
        record: Record,
        *,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> None:
        if len(items) < FEWEST:
            raise ValueError(f"a search needs at least {FEWEST} questions; there are {len(items)}")
        self.space, self.measure, self.record, self.seed = space, measure, record, seed
        self.limits = limits or Limits()
        dealt = list(items)
        Random(f"{seed} halves").shuffle(dealt)
        half = -(-len(dealt) // 2)
        ends = [0, *sorted({-(-half // 4), -(-half // 2), half})]
        self.rounds = [f"{a}-{b}" for a, b in itertools.pairwise(ends)]
        dealt_out = (dealt[a:b] for a, b in itertools.pairwise(ends))
        self._parts = dict(zip(self.rounds, dealt_out, strict=True))
        self._parts[HELD_OUT] = dealt[half:]
        self._halves = half, len(dealt) - half
        self._used: dict[tuple[Policy, str], Tally] = {}
        self._started = time.monotonic()
        self._fresh = 0  # forwards of this run

    def run(self, on_tried: Callable[[int], None] = lambda tried: None) -> dict[str, Any]:
        """Search, and score the front; for JSON. Raises what decoding raises.

        on_tried(k) is called when k more settings are done with.
        """
        stopped = self._search(on_tried)
        best = self.front()
        reported = [*best, *({self.space.base} - set(best))]
        held_out = {policy: self._measured(policy, HELD_OUT) for policy in reported}

        def entry(policy: Policy) -> dict[str, Any]:
            points = (held_out[other].point for other in reported)
            return {
                "policy": str(policy),
                "parameters": {name: getattr(policy, name) for name in self.space.searched},
                "default": policy == self.space.base,
                "beaten": any(beats(point, held_out[policy].point) for point in points),
                "selection": self._chosen_by(policy).report(),
                "held_out": held_out[policy].report(),
            }

        return {
            "version": REPORT_VERSION,
            "policy": str(self.space.base),
            "plan": self.space.base.plan,
            "searched": self.space.words(),
            "seed": self.seed,
            "questions": dict(zip(("selection", "held_out"), self._halves, strict=True)),
            "tried": len({policy for policy, _ in self._used}),
            "forwards": self.spent,
            "stopped": stopped,
            "default": entry(self.space.base),
            "front": [entry(policy) for policy in best],
            "candidates": [
                {"policy": str(policy), **self._chosen_by(policy).report()}
                for policy in self._complete()
            ],
        }

    @property
    def spent(self) -> int:
        """Forwards so far, those that earlier runs took for the same numbers included."""
        return sum(tally.forwards for tally in self._used.values())

    def front(self) -> list[Policy]:
        """The settings that none beats on the half for choosing, cheapest first."""
        complete = self._complete()
        return [complete[i] for i in front([self._chosen_by(p).point for p in complete])]

    def _search(self, on_tried: Callable[[int], None]) -> str:
        """Returns which limit ended it, or "space" where no setting is left."""
        for part in self.rounds:
            self._measured(self.space.base, part)
        on_tried(1)
        seen, number = {self.space.base}, 1
        while number < self.limits.candidates:
            cohort: list[Policy] = []
            best = self.front()
            while len(cohort) < COHORT and number < self.limits.candidates:
                drawn = self._draw(number, best, seen)
                if drawn is None:
                    break
                cohort.append(drawn)
                seen.add(drawn)
                number += 1
            if not cohort:
                return "space"
            if reason := self._compete(cohort, on_tried):
                return reason
        return "candidates"

    def _draw(self, number: int, best: list[Policy], seen: Collection[Policy]) -> Policy | None:
        """Every second setting is one of the front but for one parameter."""
        generator = Random(f"{self.seed} {number}")
        around = generator.choice(best) if number % 2 else None
        return self.space.draw(
            generator, around, lambda policy: policy not in seen and self.measure.takes(policy)
        )

    def _compete(self, cohort: list[Policy], on_tried: Callable[[int], None]) -> str:
        """Ask more and more questions, and only the better half the next ones (successive halving).

        Returns the limit that was reached, if any.
        """
        for part in self.rounds:
            for policy in cohort:
                if reason := self._limit():
                    return reason
                self._measured(policy, part)
            last = part == self.rounds[-1]
            kept = cohort if last else self._better(cohort)
            on_tried(len(cohort) if last else len(cohort) - len(kept))
            cohort = kept
        return ""

    def _better(self, cohort: list[Policy]) -> list[Policy]:
        points = [self._chosen_by(policy).point for policy in cohort]
        return [cohort[index] for index in better_half(points)]

    def _limit(self) -> str:
        """The limit that is reached, with what the front will take on the held-out half."""
        chosen, held_out = self._halves
        ahead = sum(self._chosen_by(policy).forwards for policy in self.front())
        ahead = ahead * held_out // chosen
        forwards, minutes = self.limits.forwards, self.limits.minutes
        if forwards is not None and self.spent + ahead >= forwards:
            return "forwards"
        if minutes is not None:
            seconds = time.monotonic() - self._started
            if seconds * (1 + (ahead / self._fresh if self._fresh else 0)) >= 60 * minutes:
                return "minutes"
        return ""

    def _measured(self, policy: Policy, part: str) -> Tally:
        key = str(policy), part
        if key not in self.record:
            self.record.add(*key, self.measure(policy, self._parts[part]))
            self._fresh += self.record[key].forwards
        self._used[policy, part] = self.record[key]
        return self.record[key]

    def _chosen_by(self, policy: Policy) -> Tally:
        """Sums over what was asked of the half for choosing."""
        used = (self._used.get((policy, part)) for part in self.rounds)
        return Tally.sum(tally for tally in used if tally)

    def _complete(self) -> list[Policy]:
        """The settings that were asked all of that half, in the order in which they were drawn."""
        last = self.rounds[-1]
        return [policy for policy, part in self._used if part == last]
