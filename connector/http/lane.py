"""Threads for the work of short requests: a queue in C and one call back to the loop, nothing else.

The server's framework offers the same with limits, contexts and cancellation that such a request does not need, at a
third more of the event loop's time.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_IDLE_SECONDS = 10.0


class Lane:
    """Up to ``most`` threads, started when needed and gone after some seconds without work. For one event loop."""

    def __init__(self, most: int) -> None:
        """Start nothing yet."""
        self._most = most
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._open = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Return what ``work`` returns or raise what it raises; it runs to its end also where nobody waits any more."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def task() -> None:
            try:
                result, error = work(*given), None
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                result, error = None, raised
            # A loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_tell, future, result, error)

        with self._lock:
            self._open += 1
            hire = self._open > self._threads and self._threads < self._most
            self._threads += hire
        if hire:
            threading.Thread(target=self._work, name="http-lane", daemon=True).start()
        self._tasks.put(task)
        return await future

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    # Whoever puts something now either sees this thread gone or has counted on it.
                    if self._open < self._threads:
                        self._threads -= 1
                        return
                continue
            task()
            del task
            with self._lock:
                self._open -= 1


def _tell(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
