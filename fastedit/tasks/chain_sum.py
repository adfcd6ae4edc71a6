"""chain_sum: additions and subtractions from left to right, with a running total."""

from __future__ import annotations

from typing import Any, ClassVar

from .task import MARK, Task


class ChainSum(Task):
    """`45 + 3 - 62 =` is worked out as the lines `+045`, `+03 = +048`, `-62 = -014`, `#### -014`.

    Numbers have a sign and a fixed width, so the place of every digit follows from the number of
    terms: a model that drafts in parallel need not know one digit to place the next.
    """

    name = "chain_sum"
    defaults: ClassVar[dict[str, Any]] = {
        "min_terms": 2,
        "max_terms": 4,
        "min_digits": 1,
        "max_digits": 2,
    }

    def solve(self, entry: dict[str, Any]) -> str:
        """Widths: 3 digits for totals and 2 for terms, more where the difficulty asks for it."""
        digits = max(self.options["max_digits"], self.defaults["max_digits"])
        first, *rest = entry["metadata"]["expression"].split()
        total = int(first)
        lines = [f"{total:+0{digits + 2}d}"]
        for sign, number in zip(rest[::2], rest[1::2], strict=True):
            total += int(sign + number)
            lines.append(f"{sign}{int(number):0{digits}d} = {total:+0{digits + 2}d}")
        return "\n".join([*lines, f"{MARK} {total:+0{digits + 2}d}"])
