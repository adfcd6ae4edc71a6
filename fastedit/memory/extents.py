"""Which positions of the pool belong to whom: ranges of whole units, the lowest that is free."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """Positions [first, first + size) of the pool."""

    first: int
    size: int


NOWHERE = Extent(0, 0)


class Extents:
    """`units` ranges of `unit` positions each, from position `begin` on.

    Most requests take one unit; a longer one takes several that are neighbours.
    """

    def __init__(self, begin: int, unit: int, units: int = 0) -> None:
        self.begin, self.unit = begin, unit
        self.free = [True] * units

    @property
    def end(self) -> int:
        """One past the last position."""
        return self.begin + len(self.free) * self.unit

    def add(self, units: int) -> None:
        self.free += [True] * units

    def units_of(self, positions: int) -> int:
        return -(-positions // self.unit)

    def take(self, positions: int) -> Extent | None:
        """The lowest range for `positions` positions; None where no such range is free."""
        wanted, run = self.units_of(positions), 0
        for unit, free in enumerate(self.free):
            run = run + 1 if free else 0
            if run == wanted:
                first = unit + 1 - wanted
                self.free[first : unit + 1] = [False] * wanted
                return Extent(self.begin + first * self.unit, wanted * self.unit)
        return None

    def lowest(self) -> int | None:
        """First position of the lowest free unit."""
        unit = next((unit for unit, free in enumerate(self.free) if free), None)
        return None if unit is None else self.begin + unit * self.unit

    def missing(self, positions: int) -> int:
        """Units to add, so that `take` finds such a range."""
        behind = 0
        for free in reversed(self.free):
            if not free:
                break
            behind += 1
        return max(self.units_of(positions) - behind, 0)

    def give(self, extent: Extent) -> None:
        first = (extent.first - self.begin) // self.unit
        units = extent.size // self.unit
        self.free[first : first + units] = [True] * units
