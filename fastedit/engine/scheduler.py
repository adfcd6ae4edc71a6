"""Who comes in, who leaves, and how much room there is."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from fastedit.engine.memory import Capacity
from fastedit.engine.request import Request


class Scheduler:
    """The requests that wait and those that decode now; `live[i]` has slot i."""

    def __init__(self, requests: list[Request], capacity: Capacity) -> None:
        self.waiting = deque(request for request in requests if not request.finished)
        self.live: list[Request] = []
        self.slots = min(capacity.most, len(self.waiting))
        self.capacity = self.now = replace(capacity, most=max(self.slots, 1))
        self.rows = 0  # there was to be room for, when the last request came in
        self.longest: Request | None = None  # of a shortage, until it has ended

    def lets_in(self, length: int) -> bool:
        """Whether one more may come in, none of them beyond `length` positions."""
        if self.longest is not None and self.longest.finished:
            self.now, self.longest = self.capacity, None
        rows = self.now.rows(length)
        if len(self.live) >= rows:  # the first in line waits until there is room
            return False
        self.rows = rows
        return True

    def enter(self, step: int) -> Request:
        """The first in line goes live."""
        request = self.waiting.popleft()
        request.slot, request.entered = len(self.live), step
        self.live.append(request)
        return request

    def leave(self, slot: int) -> int:
        """The request in `slot` leaves; returns the slot that moves into its place."""
        last = len(self.live) - 1
        self.live[slot] = self.live[last]
        self.live[slot].slot = slot
        self.live.pop()
        return last

    def halve(self) -> tuple[list[Request], bool]:
        """After a shortage of memory: nobody is live, and half as many come in from now on.

        Returns those that were live, and whether there was more than one: one alone is too many.
        The limit falls away when the longest of them has ended, so there are at most log2(rows)
        shortages for every request that ends.
        """
        live = [request for request in self.live if not request.finished]
        self.live.clear()
        alone = self.now.most == 1
        # Out of memory while they are let in, not all of the rows are taken yet.
        rows = min(self.rows, len(live) + len(self.waiting))
        self.now = replace(self.capacity, most=max(rows // 2, 1))
        # Of equally long ones the last: it ends about when all of them have.
        self.longest = max(live, key=lambda request: (request.span, request.index), default=None)
        return live, not alone
