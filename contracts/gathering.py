"""Doing together what several threads want done at once: one transaction costs little more for five than for one."""

import threading
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_MOST: Final = 50


class Gathering(Generic[T]):
    """What waits to be done by whoever is at it already. Safe between threads."""

    def __init__(self) -> None:
        """Begin with nothing waiting."""
        self._waiting: list[T] = []
        self._busy = False
        self._lock = threading.Lock()

    def batches(self, one: T) -> Iterator[list[T]]:
        """Yield what to do now, ``one`` among it; nothing where another thread is at it and takes ``one`` along.

        The caller must not leave the loop before its end.
        """
        with self._lock:
            self._waiting.append(one)
            if self._busy:
                return
            self._busy = True
        while True:
            with self._lock:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                if not batch:
                    self._busy = False
                    return
            yield batch
