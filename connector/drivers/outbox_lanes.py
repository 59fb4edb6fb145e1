"""Whose turn it is: work in lanes, one per peer, so that a peer that answers slowly or never holds only its own.

Whoever is free takes the first piece of the lane that has waited longest, of those that are not at their limit. A peer in
good standing may have a few of our threads at once, one in trouble a single one.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, TypeVar

W = TypeVar("W")


class Lanes(Generic[W]):
    """Queues by key. Safe between threads."""

    def __init__(self, limit: Callable[[str], int]) -> None:
        """Let at most ``limit(key)`` pieces of a lane be in hand at once; asked again at every turn."""
        self._limit = limit
        self._lanes: dict[str, deque[W]] = {}
        self._in_hand: Counter[str] = Counter()
        # The lanes whose turn may come, longest waiting first; each stands here once.
        self._turns: deque[str] = deque()
        self._idle = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, key: str, work: W) -> bool:
        """Append a piece of work; returns whether it can be taken and nobody is free to do so."""
        with self._changed:
            self._lanes.setdefault(key, deque()).append(work)
            self._queue(key)
            if not self._turns:
                return False
            self._changed.notify()
            return self._idle < len(self._turns)

    def take(self, seconds: float | None = None) -> tuple[str, W] | None:
        """Wait for a turn and return the work; ``None`` when the lanes are closed, or after ``seconds``."""
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._turns or self._closed, seconds)
            finally:
                self._idle -= 1
            if self._closed or not self._turns:
                return None
            key = self._turns.popleft()
            work = self._lanes[key].popleft()
            self._in_hand[key] += 1
            self._queue(key)
            return key, work

    def done(self, key: str) -> None:
        """Say that a piece which was taken is finished with."""
        with self._changed:
            self._in_hand[key] -= 1
            if not self._in_hand[key]:
                del self._in_hand[key]
                if not self._lanes[key]:
                    del self._lanes[key]
            self._queue(key)
            if self._turns:
                self._changed.notify()

    def crowded(self, most: int) -> frozenset[str]:
        """Return the lanes in which more than ``most`` pieces wait."""
        with self._changed:
            return frozenset(key for key, lane in self._lanes.items() if len(lane) > most)

    def open(self) -> None:
        """Serve again after :meth:`close`."""
        with self._changed:
            self._closed = False

    def close(self) -> None:
        """Send everybody home who waits in :meth:`take`; what waits in the lanes stays there."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _queue(self, key: str) -> None:
        """Give a lane its next turn if it has work and is below its limit."""
        lane = self._lanes.get(key)
        if lane and key not in self._turns and self._in_hand[key] < self._limit(key):
            self._turns.append(key)
