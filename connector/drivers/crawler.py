"""The catalog crawler: reads the catalogs of the participants we know, again and again.

Only addresses out of verified memberships are asked, never one that a message or a catalog named.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from connector.drivers.wire import DSP_PATH
from connector.identity.membership import Membership
from connector.storage.peer_catalogs import SqlCatalogShelf
from contracts.crawl import CatalogCrawl
from contracts.ports import Peer

_log = structlog.get_logger()
_THREADS = 2


class CatalogCrawler:
    """Two threads, so that one peer which does not answer holds up no other; ``wake`` looks at once."""

    def __init__(
        self,
        shelf: SqlCatalogShelf,
        memberships: Callable[[], Sequence[Membership]],
        own_id: str,
        now: Callable[[], datetime],
        *,
        seconds: float = 5.0,
    ) -> None:
        """Look every ``seconds`` for catalogs that are due; :meth:`serve` says how they are read."""
        self._shelf = shelf
        self._memberships = memberships
        self._own_id = own_id
        self._now = now
        self._seconds = seconds
        self._crawl: CatalogCrawl | None = None
        self._wake = threading.Condition()
        self._looks = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def serve(self, crawl: CatalogCrawl) -> None:
        """Say how a catalog is read; before ``start``. Without, nothing is read."""
        self._crawl = crawl

    def start(self) -> None:
        """Start the threads."""
        if self._crawl is not None:
            self._threads = [
                threading.Thread(target=self._loop, name=f"catalogs-{number}", daemon=True)
                for number in range(_THREADS)
            ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads after the page under way."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(timeout=5)

    def wake(self) -> None:
        """Look now."""
        with self._wake:
            self._looks += 1
            self._wake.notify_all()

    def note(self) -> dict[str, Membership]:
        """Keep in step whose catalogs are read with who is admitted; returns them by participant."""
        known = {one.identity.participant_id: one for one in self._memberships()}
        known.pop(self._own_id, None)
        self._shelf.note(known, self._now())
        return known

    def look(self) -> int:
        """Read every catalog that is due; returns how many were read, well or not."""
        if self._crawl is None:
            return 0
        now = self._now()
        known = self.note()
        due = (known[name] for name in self._shelf.due(now) if name in known)
        return sum(self._read(self._crawl, one, now) for one in due if not self._stopping)

    def _read(self, crawl: CatalogCrawl, membership: Membership, now: datetime) -> bool:
        identity = membership.identity
        peer = Peer(participant_id=identity.participant_id, dsp_url=identity.address.rstrip("/") + DSP_PATH)
        over = membership.expires <= now
        return crawl.crawl(peer, "its membership of this data space has ended" if over else None)

    def _loop(self) -> None:
        seen = 0
        while True:
            with self._wake:
                if self._looks == seen and not self._stopping:
                    self._wake.wait(self._seconds)
                if self._stopping:
                    return
                seen = self._looks
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - the last line of a thread; the next look tries again
                _log.warning("the catalog crawler could not look", error=type(error).__name__)
