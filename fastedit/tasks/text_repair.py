"""text_repair: a text with dropped, doubled and replaced characters, to be written as it was."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, ClassVar

from .task import PlainAnswer

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
OPERATIONS = ("drop", "double", "replace")


@dataclass
class TextRepairConfig:
    """Lengths are in characters.

    min_length, max_length  of the text as it was; the damaged one has at most 3 characters more
    rate                    chance of each character to be damaged; one is, in any case
    """

    min_length: int = 16
    max_length: int = 27
    rate: float = 0.08

    def __post_init__(self) -> None:
        for name in ("min_length", "max_length"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name}={getattr(self, name)} must be an integer")
        if not 10 <= self.min_length <= self.max_length - 10:
            raise ValueError(
                f"min_length={self.min_length} must be at least 10, and max_length="
                f"{self.max_length} at least 10 more: words have up to 9 letters"
            )
        if not 0.0 <= self.rate <= 1.0:
            raise ValueError(f"rate={self.rate} must lie between 0 and 1")


class Texts:
    """Damaged texts as a data set of reasoning-gym is: entry `index` follows from seed + index."""

    def __init__(self, seed: int, config: TextRepairConfig) -> None:
        self.seed, self.config = seed, config
        self._words = common_words()

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = Random(f"repair {self.seed + index}")
        text = self._text(rng)
        damaged, operations = self._damaged(text, rng)
        return {
            "question": f"Repair this text: {damaged}",
            "answer": text,
            "metadata": {"damaged": damaged, "operations": operations},
        }

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for the text as it was, else 0."""
        return float(answer == entry["answer"])

    def _text(self, rng: Random) -> str:
        """Words up to a length that is drawn first, or a little less."""
        most = rng.randint(self.config.min_length + 9, self.config.max_length)
        text = rng.choice(self._words)
        while len(longer := f"{text} {rng.choice(self._words)}") <= most:
            text = longer
        return text

    def _damaged(self, text: str, rng: Random) -> tuple[str, list[str]]:
        """The text and what was done to it, from left to right."""
        while True:
            rolls = [rng.random() < self.config.rate for _ in text]
            rolls[rng.randrange(len(text))] = True
            done = [rng.choice(OPERATIONS) if roll else None for roll in rolls]
            damaged = "".join(_apply(one, what, rng) for one, what in zip(text, done, strict=True))
            # Doubling one of two equal neighbours, or dropping all of a text, asks for nothing.
            if damaged != text and 0 < len(damaged) <= len(text) + 3:
                return damaged, [what for what in done if what]


def _apply(character: str, operation: str | None, rng: Random) -> str:
    if operation == "drop":
        return ""
    if operation == "double":
        return 2 * character
    if operation == "replace":
        return rng.choice(_LETTERS.replace(character, ""))
    return character


@cache
def common_words(least: int = 6) -> list[str]:
    """Words of 5 to 9 letters that reasoning-gym's novel has at least so often, by alphabet.

    Damage makes shorter ones look like each other; of these, one in a hundred.
    """
    from reasoning_gym.data import read_data_file

    found = Counter(re.findall(r"\b[a-z]{5,9}\b", read_data_file("in_the_year_2889.txt")))
    return sorted(word for word, many in found.items() if many >= least)


class TextRepair(PlainAnswer):
    """`ansered abbout` is answered by `answered about`, and nothing else.

    The data set is built here; reasoning-gym brings the words. Dropped characters make the answer
    longer than the question's text, doubled ones shorter.
    """

    name = "text_repair"
    defaults: ClassVar[dict[str, Any]] = {}

    def _open(self, gym: Any, seed: int) -> Any:
        return Texts(seed, TextRepairConfig(**self.options))
