"""chain_sum: additions and subtractions from left to right, with a running total."""

from __future__ import annotations

from typing import Any, ClassVar

from .task import MARK, Task


class ChainSum(Task):
    """`27 + 45 - 86 =` is worked out as `+27 = 527`, `+45 = 572`, `-86 = 486`, `#### -014`.

    The running total starts from 500, so that none is negative: every digit then follows from two
    digits and a carry, and the sign is settled once, in the answer. Numbers have a fixed width, so
    the place of every digit follows from the number of terms: a model that drafts in parallel need
    not know one digit to place the next.
    """

    name = "chain_sum"
    defaults: ClassVar[dict[str, Any]] = {
        "min_terms": 2,
        "max_terms": 4,
        "min_digits": 1,
        "max_digits": 2,
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
