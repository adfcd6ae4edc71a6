"""chain_sum: additions and subtractions from left to right, with a running total."""

from __future__ import annotations

import random
import re
from typing import Any, ClassVar

from .task import MARK, Task


class ChainSum(Task):
    """`27 + 45 - 86 =` is worked out as `+27 = 527`, `+45 = 572`, `-86 = 486`, `#### -014`.

    The running total starts from 500, so that none is negative: every digit then follows from two
    digits and a carry, and the sign is settled once, in the answer. Numbers have a fixed width, so
    the place of every digit follows from the number of terms: a model that drafts in parallel need
    not know one digit to place the next.

    reasoning-gym gives all terms of a problem the same number of digits. With `mixed_share`, that
    share of the problems has every term cut to its last digit or left alone, by a coin per term.
    """

    name = "chain_sum"
    defaults: ClassVar[dict[str, Any]] = {
        "min_terms": 2,
        "max_terms": 4,
        "min_digits": 1,
        "max_digits": 2,
    }

    def __init__(self, mixed_share: float = 0.0, **options: Any) -> None:
        if not 0.0 <= mixed_share <= 1.0:
            raise ValueError(f"mixed_share={mixed_share} must lie between 0 and 1")
        self.mixed_share = mixed_share
        super().__init__(**options)

    def entry(self, dataset: Any, index: int) -> dict[str, Any]:
        """As reasoning-gym's, or with numbers of different lengths. Keyed by the entry's seed."""
        entry = dataset[index]
        coin = random.Random(f"mixed {dataset.seed + index}")
        if coin.random() >= self.mixed_share:
            return entry
        before = entry["metadata"]["expression"]
        after = re.sub(r"\d+", lambda term: term[0][-1] if coin.random() < 0.5 else term[0], before)
        signs = re.findall(r"[+-]?\d+", after.replace(" ", ""))
        return {
            **entry,
            "question": entry["question"].replace(before, after),
            "answer": str(sum(map(int, signs))),
            "metadata": {**entry["metadata"], "expression": after},
        }

    def solve(self, entry: dict[str, Any]) -> str:
        """Widths are those of the default difficulty, more where a harder one needs them."""
        digits = max(self.options["max_digits"], self.defaults["max_digits"])
        terms = max(self.options["max_terms"], self.defaults["max_terms"])
        largest = terms * (10**digits - 1)
        width = len(str(2 * largest))
        total = base = 5 * 10 ** (width - 1)
        lines = []
        words = ["+", *entry["metadata"]["expression"].split()]
        for sign, number in zip(words[::2], words[1::2], strict=True):
            total += int(sign + number)
            lines.append(f"{sign}{int(number):0{digits}d} = {total:0{width}d}")
        return "\n".join([*lines, f"{MARK} {total - base:+0{width + 1}d}"])
