"""Management routes: the catalogs of peers as they were last read, and how reading went."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from connector.http.access import Reader, Writer
from connector.http.contract_views import problems
from connector.storage.cursors import Cursor, read_cursor
from connector.storage.peer_catalogs import FoundDataset, Place, SqlCatalogShelf, Wanted
from contracts.crawl import CatalogStatus
from contracts.errors import UnknownProcessError


class CatalogStatusView(BaseModel):
    """How a peer's catalog was last read, and when it will be read again."""

    participant_id: str
    last_attempt_at: datetime | None
    last_success_at: datetime | None
    next_attempt_at: datetime
    failures: int
    error_code: str | None
    error: str | None
    pages: int
    datasets: int

    @classmethod
    def of(cls, status: CatalogStatus) -> Self:
        """Show a status."""
        return cls(
            participant_id=status.participant_id,
            last_attempt_at=status.attempted_at,
            last_success_at=status.succeeded_at,
            next_attempt_at=status.due_at,
            failures=status.failures,
            error_code=status.code,
            error=status.problem,
            pages=status.pages,
            datasets=status.datasets,
        )


class CatalogStatusPage(BaseModel):
    """Peers' catalogs by participant; ``next`` is the cursor of the following page, if there is one."""

    catalogs: list[CatalogStatusView]
    next: str | None


class PeerDatasetView(BaseModel):
    """A dataset of a peer as it was last seen."""

    participant_id: str
    dataset_id: str
    formats: list[str]
    dataset: dict[str, Any]

    @classmethod
    def of(cls, found: FoundDataset) -> Self:
        """Show a dataset."""
        return cls(
            participant_id=found.place.participant_id,
            dataset_id=found.dataset_id,
            formats=list(found.formats),
            dataset=found.document,
        )


class PeerDatasetPage(BaseModel):
    """Datasets of peers; ``next`` and ``previous`` are the cursors of the pages around this one."""

    datasets: list[PeerDatasetView]
    next: str | None
    previous: str | None


class RefreshBody(BaseModel):
    """Whose catalog to read again now; without a participant, everybody's."""

    model_config = ConfigDict(extra="forbid")

    participant_id: str | None = Field(default=None, max_length=255)


class RefreshView(BaseModel):
    """How many catalogs will be read now."""

    refreshing: int


def catalogs_router(
    shelf: SqlCatalogShelf, note: Callable[[], object], wake: Callable[[], None], now: Callable[[], datetime]
) -> APIRouter:
    """Return the routes under ``/management/catalogs`` and ``/management/catalog/datasets``.

    Args:
        shelf: where catalogs are kept.
        note: brings the shelf in step with who is admitted.
        wake: makes the crawler look at once.
        now: aware UTC time.
    """
    router = APIRouter(prefix="/management", tags=["catalog"])

    @router.get("/catalogs")
    def catalogs(
        _operator: Reader,
        after: Annotated[str, Query(max_length=255)] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> CatalogStatusPage:
        """List the peers whose catalogs are read: when, with what result, and when next."""
        found = shelf.statuses(after, limit + 1)
        page = [CatalogStatusView.of(one) for one in found[:limit]]
        return CatalogStatusPage(catalogs=page, next=page[-1].participant_id if len(found) > limit else None)

    @router.post("/catalogs/refresh", status_code=202)
    def refresh(_operator: Writer, body: RefreshBody) -> RefreshView:
        """Read a peer's catalog, or everybody's, now instead of at the next turn."""
        note()
        count = shelf.hasten(body.participant_id, now())
        if body.participant_id is not None and count == 0:
            with problems():
                raise UnknownProcessError(
                    "no catalog of this participant is read; admit it with POST /management/peers"
                )
        wake()
        return RefreshView(refreshing=count)

    @router.get("/catalogs/{participant_id:path}")
    def catalog(_operator: Reader, participant_id: str) -> CatalogStatusView:
        """Show how one peer's catalog was last read."""
        with problems():
            found = shelf.status(participant_id)
            if found is None:
                raise UnknownProcessError("no catalog of this participant is read")
        return CatalogStatusView.of(found)

    @router.get("/catalog/datasets")
    def datasets(
        _operator: Reader,
        participant_id: Annotated[str | None, Query(max_length=255)] = None,
        dataset_id: Annotated[str | None, Query(max_length=2048)] = None,
        format: Annotated[str | None, Query(max_length=2048)] = None,  # noqa: A002 - the specification's word
        text: Annotated[str | None, Query(max_length=500)] = None,
        cursor: Annotated[str | None, Query(max_length=4000)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> PeerDatasetPage:
        """Search the datasets that peers have shown us, by peer, id, format, or a text in what they are called."""
        with problems():
            at = read_cursor(cursor, str, int, int) if cursor else None
        backwards = at is not None and at.backwards
        edge = _edge(at) if at is not None else None
        wanted = Wanted(
            participant_id=participant_id,
            dataset_id=dataset_id,
            format=format,
            text=text,
            after=None if backwards else edge,
            before=edge if backwards else None,
            limit=limit + 1,
        )
        found = shelf.datasets(wanted)
        more = len(found) > limit
        page = found[-limit:] if backwards else found[:limit]
        return PeerDatasetPage(
            datasets=[PeerDatasetView.of(one) for one in page],
            next=_cursor(page, -1) if page and (more or backwards) else None,
            previous=_cursor(page, 0) if page and (more if backwards else edge is not None) else None,
        )

    return router


def _edge(cursor: Cursor) -> Place:
    participant_id, page, place = cursor.place
    return Place(participant_id=str(participant_id), page=int(page), place=int(place))


def _cursor(page: list[FoundDataset], index: int) -> str:
    place = page[index].place
    return Cursor(place=(place.participant_id, place.page, place.place), backwards=index == 0).text()
