"""Sender threads: woken at commit, they send leased outbox rows and ask due behaviours; a sweep finds the rest.

Several API processes may run them on one database: every row is under a lease. A lost wake-up costs one sweep. No peer
may have more than a few of the threads, and one in trouble a single one; where all are busy and there is work for yet
another peer, more are started for a while (``outbox_lanes``).
"""

import contextlib
import hashlib
import heapq
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeAlias

import structlog

from connector.drivers.outbox_lanes import Lanes
from contracts.ports import Clock
from contracts.processes import Kind, OutboxRow
from contracts.service import ContractService

Work: TypeAlias = OutboxRow | tuple[Kind, str]
_BATCH = 100
_SHARED_MICROSECONDS = 10_000
_PER_PEER = 4
_CROWDED = 25
_SPARE_SECONDS = 5.0
_BEHAVIOURS = ""


class Senders:
    """The doorbell (port: ``contracts.ports.Doorbell``) and the threads behind it.

    Built before the service, because the service rings it; ``start`` is given the service.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        threads: int = 6,
        most_threads: int = 32,
        sweep_seconds: float = 1.0,
        holder: str | None = None,
    ) -> None:
        """Prepare ``threads`` senders, up to ``most_threads`` when needed, and a sweep at least every ``sweep_seconds``.

        ``holder`` names what only one process at a time can be, such as the listener on a port of a machine: rows that
        an earlier one of the name had leased when it was killed are freed at the start, not when their leases run out.
        """
        self._clock = clock
        self._count = threads
        self._most = most_threads
        self._sweep_seconds = sweep_seconds
        self._lanes: Lanes[Work] = Lanes(self._limit)
        self._threads: set[threading.Thread] = set()
        self._staff = threading.Lock()
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
        self._put(row.audience, row)

    def act(self, kind: Kind, pid: str) -> None:
        """See the port."""
        if self._running:
            self._put(_BEHAVIOURS, (kind, pid))

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
        self._lanes.open()
        for _ in range(self._count):
            self._hire(spare=False)
        sweep = threading.Thread(target=self._sweep, args=(self._service,), name="dsp-sweep", daemon=True)
        with self._staff:
            self._threads.add(sweep)
        sweep.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the attempts under way and stop; what is still queued keeps its lease until it runs out."""
        self._running = False
        self._lanes.close()
        with self._wake:
            self._wake.notify_all()
        with self._staff:
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout)

    def _put(self, key: str, work: Work) -> None:
        if self._lanes.put(key, work) and self._running:
            self._hire(spare=True)

    def _hire(self, *, spare: bool) -> None:
        with self._staff:
            number = len(self._threads)
            if number >= (self._most if spare else self._count):
                return
            thread = threading.Thread(
                target=self._send, args=(self._service, spare), name=f"dsp-sender-{number}", daemon=True
            )
            self._threads.add(thread)
        thread.start()

    def _limit(self, key: str) -> int:
        if key == _BEHAVIOURS or self._service is None:
            return self._count
        return 1 if self._service.delivery.standings.in_trouble(key) else _PER_PEER

    def _send(self, service: ContractService, spare: bool) -> None:  # noqa: FBT001 - a thread's arguments have no names
        try:
            while self._running and (taken := self._lanes.take(_SPARE_SECONDS if spare else None)) is not None:
                key, work = taken
                try:
                    self._guarded(lambda work=work: self._do(service, work))  # type: ignore[misc] # bound per turn
                finally:
                    self._lanes.done(key)
        finally:
            with self._staff:
                self._threads.discard(threading.current_thread())

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
        with self._staff:
            self._threads.discard(threading.current_thread())

    def _look(self, service: ContractService) -> None:
        # What already waits here for its turn is not taken again, and a peer with much of it does not crowd out others.
        for row in service.delivery.lease_due(_BATCH, self._lanes.crowded(_CROWDED)):
            self._put(row.audience, row)
        for due in service.delivery.due_behaviours(_BATCH):
            self._put(_BEHAVIOURS, due)

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
