"""Sender threads: woken at commit, they send leased outbox rows and ask due behaviours; a sweep finds the rest.

Several API processes may run them on one database: every row is under a lease. A lost wake-up costs one sweep.
"""

import contextlib
import hashlib
import heapq
import queue
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeAlias

import structlog

from contracts.ports import Clock
from contracts.processes import Kind, OutboxRow
from contracts.service import ContractService

Work: TypeAlias = OutboxRow | tuple[Kind, str]
_BATCH = 100
_SHARED_MICROSECONDS = 10_000


class Senders:
    """The doorbell (port: ``contracts.ports.Doorbell``) and the threads behind it.

    Built before the service, because the service rings it; ``start`` is given the service.
    """

    def __init__(
        self, *, clock: Clock, threads: int = 6, sweep_seconds: float = 1.0, holder: str | None = None
    ) -> None:
        """Prepare ``threads`` senders and a sweep at least every ``sweep_seconds``.

        ``holder`` names what only one process at a time can be, such as the listener on a port of a machine: rows that
        an earlier one of the name had leased when it was killed are freed at the start, not when their leases run out.
        """
        self._clock = clock
        self._count = threads
        self._sweep_seconds = sweep_seconds
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._holder = f"{hashlib.sha256(holder.encode()).hexdigest()[:16]}-" if holder else None
        self._token = f"{self._holder or ''}{uuid.uuid4().hex}"
        self._running = False
        self._wake = threading.Condition()
        self._looks: list[datetime] = []
        self._service: ContractService | None = None
        self._log = structlog.get_logger(__name__)

    # The doorbell

    @property
    def lease(self) -> str | None:
        """See the port: nothing is leased to senders that do not run."""
        return self._token if self._running else None

    def row(self, row: OutboxRow) -> None:
        """See the port."""
        self._work.put(row)

    def act(self, kind: Kind, pid: str) -> None:
        """See the port."""
        if self._running:
            self._work.put((kind, pid))

    def later(self, at: datetime) -> None:
        """See the port."""
        # Up to the next hundredth of a second, so that a thousand retries share a look.
        due = at + timedelta(microseconds=-at.microsecond % _SHARED_MICROSECONDS)
        with self._wake:
            heapq.heappush(self._looks, due)
            if self._looks[0] is due:
                self._wake.notify()

    # The threads

    def serve(self, service: ContractService) -> None:
        """Say whose rows to send; before ``start``."""
        self._service = service

    def start(self) -> None:
        """Start the threads; they first sweep up what an earlier run has left."""
        if self._service is None:
            raise RuntimeError("serve() comes before start()")
        if self._holder is not None:
            self._service.delivery.release(self._holder)
        self._running = True
        self._threads = [
            threading.Thread(target=self._send, args=(self._service,), name=f"dsp-sender-{number}", daemon=True)
            for number in range(self._count)
        ]
        self._threads.append(threading.Thread(target=self._sweep, args=(self._service,), name="dsp-sweep", daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the attempts under way and stop; what is still queued keeps its lease until it runs out."""
        self._running = False
        for _ in range(self._count):
            self._work.put(None)
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout)
        self._threads = []

    def _send(self, service: ContractService) -> None:
        while (work := self._work.get()) is not None and self._running:
            self._guarded(lambda work=work: self._do(service, work))  # type: ignore[misc] # bound per turn

    def _do(self, service: ContractService, work: Work) -> None:
        if not isinstance(work, OutboxRow):
            service.act(*work)
            return
        row: OutboxRow | None = work
        while row is not None:
            row = service.delivery.attempt(row)

    def _sweep(self, service: ContractService) -> None:
        while self._running:
            self._guarded(lambda: self._look(service))
            self._rest()

    def _look(self, service: ContractService) -> None:
        for row in service.delivery.lease_due(_BATCH):
            self._work.put(row)
        for due in service.delivery.due_behaviours(_BATCH):
            self._work.put(due)

    def _rest(self) -> None:
        """Sleep until something falls due, at most until the next sweep; a new due time only shortens the sleep."""
        end = time.monotonic() + self._sweep_seconds
        with self._wake:
            while self._running and (left := min(end - time.monotonic(), self._until_due())) > 0:
                self._wake.wait(left)
            now = self._clock()
            while self._looks and self._looks[0] <= now:
                heapq.heappop(self._looks)

    def _until_due(self) -> float:
        return (self._looks[0] - self._clock()).total_seconds() if self._looks else self._sweep_seconds

    def _guarded(self, work: Callable[[], None]) -> None:
        # A sender that dies would silence the participant: whatever goes wrong is logged, and the sweep tries again.
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the last line of a thread
            with contextlib.suppress(Exception):
                self._log.error("dsp.sender.failed", error=type(error).__name__)


class SilentDoorbell:
    """A doorbell nobody hears: for commands that leave sending to another process's sweep."""

    lease: str | None = None

    def row(self, row: OutboxRow) -> None:
        """See the port."""

    def act(self, kind: Kind, pid: str) -> None:
        """See the port."""

    def later(self, at: datetime) -> None:
        """See the port."""
