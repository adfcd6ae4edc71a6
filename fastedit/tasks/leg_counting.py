"""leg_counting: how many legs a list of animals has, one animal a line, with a running total."""

from __future__ import annotations

from typing import Any, ClassVar

from .task import MARK, Task


class LegCounting(Task):
    """`2 bees, 15 tigers` is worked out as `02 bees * 06 = 012 -> 012`,
    `15 tigers * 04 = 060 -> 072`, `#### 072`: count, animal, legs of one, product, total so far.
    """

    name = "leg_counting"
    defaults: ClassVar[dict[str, Any]] = {
        "min_animals": 2,
        "max_animals": 4,
        "min_instances": 1,
        "max_instances": 15,
    }

    def solve(self, entry: dict[str, Any]) -> str:
        """Raises KeyError for an animal that reasoning-gym does not know."""
        from reasoning_gym.arithmetic.leg_counting import ANIMALS

        total, lines = 0, []
        for animal, count in entry["metadata"]["animals"].items():
            legs = ANIMALS[animal]
            total += count * legs
            name = animal + ("s" if count > 1 else "")
            lines.append(f"{count:02d} {name} * {legs:02d} = {count * legs:03d} -> {total:03d}")
        return "\n".join([*lines, f"{MARK} {total:03d}"])

    def extract(self, text: str) -> str | None:
        """As in `Task`, without leading zeros: reasoning-gym's scorer compares this text."""
        answer = super().extract(text)
        return answer.lstrip("0") or "0" if answer else None
