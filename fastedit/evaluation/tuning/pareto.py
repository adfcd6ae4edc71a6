"""Points of quality (more is better) and cost (less is better), and which of them are beaten."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]  # quality, cost


def beats(one: Point, other: Point) -> bool:
    """Whether `one` is at least as good in both, and better in one of them."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that none beats, cheapest first; of equal ones the first."""
    best: dict[Point, int] = {}
    for index, point in enumerate(points):
        if not any(beats(other, point) for other in points):
            best.setdefault(point, index)
    return sorted(best.values(), key=lambda index: points[index][1])


def better_half(points: Sequence[Point]) -> list[int]:
    """Indices of at least half of the points, in order.

    These are whole layers: all that none beats, then all that only those beat, and so on.
    """
    left, kept = list(range(len(points))), list[int]()
    while 2 * len(kept) < len(points):
        layer = [i for i in left if not any(beats(points[j], points[i]) for j in left)]
        kept += layer
        left = [i for i in left if i not in layer]
    return sorted(kept)
