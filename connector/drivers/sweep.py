"""The sweep over learning work: rings for what is due and was not rung for, or whose worker went away."""

import threading
from collections.abc import Callable
from datetime import datetime

import structlog

from connector.storage.learning import WorkBook

_log = structlog.get_logger()


class WorkSweep:
    """A thread that looks every ``seconds`` for due work."""

    def __init__(
        self,
        book: WorkBook,
        ring: Callable[[str, str], None],
        now: Callable[[], datetime],
        *,
        seconds: float = 0.25,
        again_seconds: float = 3.0,
    ) -> None:
        """Ring through ``ring``; ``again_seconds`` is the first pause before a doorbell is repeated."""
        self._book = book
        self._ring = ring
        self._now = now
        self._seconds = seconds
        self._again = again_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._loop, name="work-sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                for task, key in self._book.sweep(self._now(), self._again):
                    self._ring(task, key)
            except Exception as error:  # noqa: BLE001 - the database may be away for a while; the sweep must outlive it
                _log.warning("the sweep over learning work failed", error=type(error).__name__)
