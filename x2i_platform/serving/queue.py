"""Who may work now, who waits and at which place, and who is turned away. Free of Ray.

Invariant: at most `slots` requests are at work and at most `limit` wait, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import deque


class QueueFullError(Exception):
    """As many requests wait as may."""


class Place:
    """A request's place in the queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.left = False

    @property
    def position(self) -> int | None:
        """How many requests are before this one; None once it is at work."""
        return self._queue.position(self)


class Queue:
    """A line before a number of slots."""

    def __init__(self, *, slots: int, limit: int) -> None:
        self.slots, self.limit = slots, limit
        self.working = 0
        self._line: deque[Place] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._line)

    def enter(self) -> Place:
        """Take a place. Raises QueueFullError."""
        place = Place(self)
        if self.working < self.slots and not self._line:
            self._admit(place)
        elif len(self._line) >= self.limit:
            raise QueueFullError
        else:
            self._line.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Give up a place, whether it waits or works. A second time does nothing."""
        if place in self._line:
            self._line.remove(place)
        elif not place.left:
            self.working -= 1
        place.left = True
        while self._line and self.working < self.slots:
            self._admit(self._line.popleft())

    def position(self, place: Place) -> int | None:
        """How many wait before a place."""
        return self._line.index(place) if place in self._line else None

    def _admit(self, place: Place) -> None:
        self.working += 1
        if not place.turn.cancelled():  # else whoever it was has given up just now, and is about to leave
            place.turn.set_result(None)
