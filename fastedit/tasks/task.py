"""What a task is: problems with worked solutions, a split by question text, a score."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from fastedit import extras

MARK = "####"
_HELD_OUT_SHARE = 10
_ENTRIES_PER_SEED = 2**40


class Problem(NamedTuple):
    """A question, a solution worked out in the task's own format, and reasoning-gym's entry."""

    question: str
    solution: str
    entry: dict[str, Any]


class Score(NamedTuple):
    """`exact`: the extracted answer is right. `credit`: what the scorer gives, 0 to 1."""

    exact: bool
    credit: float


def is_held_out(question: str) -> bool:
    """Whether a question belongs to the test split: one text in ten, by its SHA-1 alone.

    The split therefore depends on no seed, size or difficulty, and a question that is drawn twice
    always falls on the same side.
    """
    digest = hashlib.sha1(question.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT_SHARE == 0


class Task:
    """A reasoning-gym data set with worked solutions. Subclasses say how a problem is worked out.

    `options` override the difficulty `defaults`. Raises ImportError without reasoning-gym.
    """

    name: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]

    def __init__(self, **options: Any) -> None:
        self.options = {**self.defaults, **options}
        self._scorer = self._dataset(seed=0)

    def option_names(self) -> list[str]:
        """What `options` may override: names of this class and of reasoning-gym's data set."""
        own = [name for name in inspect.signature(type(self)).parameters if name != "options"]
        theirs = [field.name for field in dataclasses.fields(self._scorer.config)]
        return own + [name for name in theirs if name not in ("seed", "size")]

    def solve(self, entry: dict[str, Any]) -> str:
        """The worked solution of a reasoning-gym entry; ends in `#### answer`."""
        raise NotImplementedError

    def entry(self, dataset: Any, index: int) -> dict[str, Any]:
        """Entry `index` of a reasoning-gym data set, as this task asks it."""
        return dataset[index]

    def problem(self, index: int, seed: int = 0) -> Problem:
        """Problem number `index` (0 to 2**40 - 1) of the stream `seed`, whatever its split."""
        if not 0 <= index < _ENTRIES_PER_SEED:
            raise IndexError(f"index={index} is outside [0, 2**40)")
        # reasoning-gym seeds an entry by seed + index: far apart, streams share no entry.
        return self._problem(self.entry(self._dataset(seed * _ENTRIES_PER_SEED), index))

    def training(self, seed: int = 0, start: int = 0) -> Iterator[Problem]:
        """Endless problems of the stream `seed` from index `start`, without held-out questions."""
        dataset = self._dataset(seed * _ENTRIES_PER_SEED)
        for index in range(start, _ENTRIES_PER_SEED):
            entry = self.entry(dataset, index)
            if not is_held_out(entry["question"]):
                yield self._problem(entry)

    def test_set(self, size: int = 500) -> list[Problem]:
        """The first `size` different held-out questions: always the same, a prefix of larger sets.

        Raises ValueError where the difficulty does not have that many.
        """
        found: dict[str, Problem] = {}
        dataset, tries = self._dataset(seed=0), 0
        while len(found) < size:
            if tries > 1000 + 200 * size:
                raise ValueError(f"{self.name} has fewer than {size} held-out questions")
            entry = self.entry(dataset, tries)
            tries += 1
            if is_held_out(entry["question"]):
                found[entry["question"]] = self._problem(entry)
        return list(found.values())

    def messages(self, question: str) -> list[dict[str, str]]:
        """The prompt as a chat."""
        return [{"role": "user", "content": question}]

    def extract(self, text: str) -> str | None:
        """The final answer of a generated solution: the first word after the last `####`."""
        words = text.rpartition(MARK)[2].split() if MARK in text else []
        return words[0] if words else None

    def score(self, text: str, problem: Problem) -> Score:
        """Judge a generated solution with reasoning-gym's own scorer."""
        credit = float(self._scorer.score_answer(self.extract(text), problem.entry))
        return Score(credit == 1.0, credit)

    def _problem(self, entry: dict[str, Any]) -> Problem:
        return Problem(entry["question"], self.solve(entry), entry)

    def _dataset(self, seed: int) -> Any:
        gym = extras.require("reasoning_gym", "eval", "tasks need")
        return self._open(gym, seed)

    def _open(self, gym: Any, seed: int) -> Any:
        """The data set of one seed; `gym` is the package reasoning_gym."""
        return gym.create_dataset(self.name, seed=seed, size=_ENTRIES_PER_SEED, **self.options)


class PlainAnswer(Task):
    """A task whose answer stands alone: it is its own solution, and all of a text is an answer."""

    def solve(self, entry: dict[str, Any]) -> str:
        return entry["answer"]

    def extract(self, text: str) -> str | None:
        """All of a text, without blanks around it."""
        return text.strip() or None
