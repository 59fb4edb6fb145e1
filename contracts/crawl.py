"""Reads the catalogs of the participants we know, page by page, and keeps what they say.

A page that its peer says has not changed (``If-None-Match``) is not sent again. What was read before stays until its
page is replaced: a crawl that breaks off leaves the rest as it was, and says what went wrong.
"""

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from contracts.errors import ContractError
from contracts.peer_catalogs import OfferedDataset, PeerCatalogs
from contracts.ports import Clock, Peer

# A page holds a hundred datasets at most peers.
MAX_PAGES: Final = 2_000
_CLAIM = timedelta(minutes=2)
_LONGEST_DOUBLING = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogStatus:
    """How a peer's catalog was last read; times are aware UTC.

    Attributes:
        attempted_at: when reading last began; None before the first time.
        succeeded_at: when it last came to its end.
        due_at: when it will be read next.
        failures: how many times in a row it has failed.
        code: what kind of failure the last one was; None after a success.
        problem: the last failure in words.
        pages: how many pages are kept.
        datasets: how many datasets are kept.
    """

    participant_id: str
    due_at: datetime
    attempted_at: datetime | None = None
    succeeded_at: datetime | None = None
    failures: int = 0
    code: str | None = None
    problem: str | None = None
    pages: int = 0
    datasets: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeptPage:
    """What is known of a page that was read: where it is, which state of it, and where the next one is."""

    url: str
    etag: str | None
    following: str | None


class Shelf(Protocol):
    """Where catalogs are kept (``connector.storage.peer_catalogs.SqlCatalogShelf``)."""

    def claim(self, participant_id: str, *, now: datetime, until: datetime) -> CatalogStatus | None:
        """Take a catalog that is due, for this process alone until then; None when it is not due or taken."""
        ...

    def hold(self, participant_id: str, *, until: datetime) -> None:
        """Keep a claimed catalog for longer."""
        ...

    def page(self, participant_id: str, number: int) -> KeptPage | None:
        """Return what is known of a page, counted from 0."""
        ...

    def keep(self, participant_id: str, number: int, page: KeptPage, datasets: Sequence[OfferedDataset]) -> None:
        """Replace a page."""
        ...

    def close(self, participant_id: str, *, pages: int, now: datetime, due_at: datetime) -> None:
        """Note that a catalog was read to its end, which is ``pages`` long; later pages are dropped."""
        ...

    def fail(self, participant_id: str, *, code: str, problem: str, due_at: datetime) -> None:
        """Note that reading failed."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """When a catalog is read again: ``seconds`` after a success; sooner, then ever later, after a failure."""

    seconds: float = 300.0
    first_retry_seconds: float = 10.0

    def after_success(self) -> timedelta:
        """Return the wait after a success."""
        return timedelta(seconds=self.seconds)

    def after_failures(self, failures: int) -> timedelta:
        """Return the wait after so many failures in a row."""
        doubled = self.first_retry_seconds * 2.0 ** min(failures - 1, _LONGEST_DOUBLING)
        return timedelta(seconds=min(max(self.seconds, self.first_retry_seconds), doubled))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogCrawl:
    """Reads one peer's whole catalog."""

    catalogs: PeerCatalogs
    shelf: Shelf
    clock: Clock
    pace: Pace = dataclasses.field(default_factory=Pace)

    def crawl(self, peer: Peer, refusal: str | None = None) -> bool:
        """Read a peer's catalog if it is due; returns whether it was.

        Args:
            peer: who, and where; never an address out of a message.
            refusal: why this peer must not be asked at all, noted instead of asking.
        """
        now = self.clock()
        status = self.shelf.claim(peer.participant_id, now=now, until=now + _CLAIM)
        if status is None:
            return False
        again = self.pace.after_failures(status.failures + 1)
        if refusal is not None:
            self.shelf.fail(peer.participant_id, code="not-asked", problem=refusal, due_at=now + again)
            return True
        try:
            pages = self._read(peer)
        except ContractError as error:
            due = self.clock() + again
            self.shelf.fail(peer.participant_id, code=error.code, problem=str(error), due_at=due)
        else:
            now = self.clock()
            self.shelf.close(peer.participant_id, pages=pages, now=now, due_at=now + self.pace.after_success())
        return True

    def _read(self, peer: Peer) -> int:
        cursor: str | None = None
        seen: set[str] = set()
        for number in range(MAX_PAGES):
            url = cursor or self.catalogs.first_url(peer)
            kept = self.shelf.page(peer.participant_id, number)
            etag = kept.etag if kept is not None and kept.url == url else None
            found = self.catalogs.request(peer, cursor=cursor, etag=etag)
            seen.add(url)
            if found.unchanged and kept is not None:
                cursor = kept.following
            else:
                cursor = found.cursor
                page = KeptPage(url=url, etag=found.etag, following=cursor)
                self.shelf.keep(peer.participant_id, number, page, found.datasets)
            if cursor is None or cursor in seen:
                return number + 1
            self.shelf.hold(peer.participant_id, until=self.clock() + _CLAIM)
        return MAX_PAGES
