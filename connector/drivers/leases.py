"""Keeps the leases of running tasks alive, from one thread for the whole worker process."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import structlog

from connector.storage.learning import Lease, WorkBook

_log = structlog.get_logger()


class LeaseKeeper:
    """Renews every lease that is held until it is let go."""

    def __init__(self, book: WorkBook, now: Callable[[], datetime], *, seconds: float = 8.0) -> None:
        """Renew every ``seconds``, well within the lease's own time."""
        self._book = book
        self._now = now
        self._seconds = seconds
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lease-keeper", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def held(self, lease: Lease) -> Iterator[None]:
        """Keep ``lease`` renewed while the block runs."""
        with self._lock:
            self._held[lease.token] = lease
        try:
            yield
        finally:
            with self._lock:
                del self._held[lease.token]

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stop.wait(self._seconds):
            with self._lock:
                held = list(self._held.values())
            if held:
                try:
                    self._book.renew(held, self._now())
                except Exception as error:  # noqa: BLE001 - a lease that runs out is taken again; the keeper must live on
                    _log.warning("leases could not be renewed", error=type(error).__name__)
