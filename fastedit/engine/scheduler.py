"""Who comes in, and how much room there is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from fastedit.memory.capacity import Capacity
from fastedit.request.request import Request


class Scheduler:
    """The requests that wait, in order, and the room for those that are in."""

    def __init__(self, capacity: Capacity) -> None:
        self.waiting: deque[Request] = deque()
        self.capacity = self.now = capacity
        self.longest: Request | None = None  # of a shortage, until it has ended

    def lets_in(self, requests: int, positions: int) -> bool:
        """Whether there is room for so many requests, with so many positions in all."""
        if self.longest is not None and self.longest.finished:
            self.now, self.longest = self.capacity, None
        return requests == 1 or self.now.holds(requests, positions)

    def halve(self, requests: list[Request]) -> bool:
        """After a shortage of memory: of those that were in, half as many come in again.

        Returns False where no more than one could come in, or none had: that is too many. The
        limit falls away when the longest of them has ended, so there are at most log2(rows)
        shortages for every request that ends.
        """
        if self.now.most == 1 or not requests:
            return False
        self.now = replace(self.capacity, most=max(len(requests) // 2, 1))
        # Of equally long ones the last: it ends about when all of them have.
        self.longest = max(requests, key=lambda request: (request.span, request.number))
        return True

    def put_back(self, requests: Iterable[Request]) -> None:
        """They come in again before all that wait, in the order in which they came."""
        self.waiting.extendleft(sorted(requests, key=lambda request: -request.number))

    def drop_finished(self) -> None:
        """Those that ended while they waited."""
        self.waiting = deque(request for request in self.waiting if not request.finished)

    def common_room(self) -> int:
        """Positions for each of those that wait: what the longest needs, if that is at most twice
        what one needs that comes in first."""
        rooms = [request.room for request in self.waiting]
        first, longest = max(rooms[: self.capacity.most]), max(rooms)
        return longest if longest <= 2 * first else first
