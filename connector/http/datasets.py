"""Management routes: our datasets and their offers, and the catalogs of peers."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from connector.http.access import Reader, Writer
from connector.http.contract_views import CatalogRequestBody, DatasetBody, DatasetPage, PeerCatalogView, problems
from contracts.errors import UnknownProcessError
from contracts.ports import CatalogQuery, Peer, PeerDirectory
from contracts.service import ContractService


def datasets_router(service: ContractService, peers: PeerDirectory) -> APIRouter:
    """Return the routes under ``/management/datasets`` and ``/management/catalog``."""
    router = APIRouter(prefix="/management", tags=["catalog"])

    @router.post("/datasets", status_code=201)
    def publish(_operator: Writer, body: DatasetBody) -> dict[str, Any]:
        """Publish a dataset with its offer, or replace it."""
        with problems():
            return service.catalog.describe(service.catalog.publish(body.value()))

    @router.get("/datasets")
    def datasets(
        _operator: Reader,
        keyword: str | None = None,
        text: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> DatasetPage:
        """List our datasets by id."""
        query = CatalogQuery(keyword=keyword, text=text, after=after, limit=limit + 1)
        found = service.store.datasets(query)
        page = [service.catalog.describe(dataset) for dataset in found[:limit]]
        return DatasetPage(datasets=page, next=found[limit - 1].id if len(found) > limit else None)

    @router.get("/datasets/{dataset_id:path}")
    def dataset(_operator: Reader, dataset_id: str) -> dict[str, Any]:
        """Show one of our datasets."""
        with problems():
            found = service.store.dataset(dataset_id)
            if found is None:
                raise UnknownProcessError("there is no such dataset")
            return service.catalog.describe(found)

    @router.delete("/datasets/{dataset_id:path}", status_code=204)
    def withdraw(_operator: Writer, dataset_id: str) -> None:
        """Take a dataset out of the catalog; agreements about it stay."""
        with problems():
            service.catalog.withdraw(dataset_id)

    @router.post("/catalog/request")
    def peer_catalog(_operator: Reader, body: CatalogRequestBody) -> PeerCatalogView:
        """Read a page of a peer's catalog."""
        with problems():
            wanted = [body.filter] if body.filter else []
            page = service.peer_catalogs.request(
                known_peer(peers, body.participant_id), filter=wanted, cursor=body.cursor
            )
        found = [dict(entry.document) for entry in page.datasets]
        return PeerCatalogView(
            participant_id=page.participant_id, datasets=found, next=page.cursor, previous=page.previous
        )

    return router


def known_peer(peers: PeerDirectory, participant_id: str) -> Peer:
    """Return a peer by its id.

    Raises:
        UnknownProcessError: it has not been admitted here.
    """
    found = peers.find(participant_id)
    if found is None:
        raise UnknownProcessError("this participant is not known; admit it with POST /management/peers first")
    return found
