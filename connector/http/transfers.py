"""Management routes: transfers."""

import dataclasses
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from connector.http.access import Reader, Writer
from connector.http.contract_views import (
    DataAddressBody,
    EventView,
    ResumeBody,
    StopBody,
    TransferBody,
    TransferPage,
    TransferView,
    problems,
)
from connector.http.negotiations import LastEvent, Word, agreement_query, event_stream
from contracts import ports
from contracts.errors import UnknownProcessError
from contracts.messages import DataAddress
from contracts.processes import Kind
from contracts.service import ContractService
from contracts.transfers import TransferState


def transfer_query(
    asked: Annotated[ports.Query, Depends(agreement_query)],
    state: TransferState | None = None,
    agreement: Word = None,
) -> ports.Query:
    """Read which transfers are asked for."""
    return dataclasses.replace(asked, state=state, agreement_id=agreement)


def transfers_router(service: ContractService) -> APIRouter:  # noqa: C901 - a list of routes
    """Return the routes under ``/management/transfers``."""
    router = APIRouter(prefix="/management/transfers", tags=["transfers"])
    desk = service.transfers

    @router.post("", status_code=201)
    def start(_operator: Writer, body: TransferBody) -> TransferView:
        """Ask the provider of an agreement for a transfer."""
        with problems():
            address = _address(body.data_address) if body.data_address else None
            return TransferView.of(desk.request(body.agreement_id, body.format, address))

    @router.get("")
    def transfers(_operator: Reader, query: Annotated[ports.Query, Depends(transfer_query)]) -> TransferPage:
        """List transfers, newest first."""
        with problems():
            page = service.store.processes(Kind.TRANSFER, query)
        waiting = service.store.undelivered([one.pid for one in page.items])
        shown = [TransferView.of(one).with_messages(waiting.get(one.pid, ())) for one in page.items]
        return TransferPage(transfers=shown, next=page.cursor, previous=page.previous)

    @router.get("/{pid}")
    def transfer(_operator: Reader, pid: str) -> TransferView:
        """Show a transfer with its history and its last and next delivery."""
        with problems():
            found = service.store.transfer(pid)
            if found is None:
                raise UnknownProcessError("there is no such transfer")
        view = TransferView.of(found).with_messages(service.store.deliveries(pid))
        view.events = [EventView.of(event) for event in service.store.events(pid)]
        return view

    @router.post("/{pid}/suspend")
    def suspend(_operator: Writer, pid: str, body: StopBody) -> TransferView:
        """Pause a transfer."""
        with problems():
            return TransferView.of(desk.suspend(pid, tuple(body.reasons)))

    @router.post("/{pid}/resume")
    def resume(_operator: Writer, pid: str, body: ResumeBody | None = None) -> TransferView:
        """Start a paused transfer again; as provider a fresh data address may be given."""
        with problems():
            address = _address(body.data_address) if body and body.data_address else None
            return TransferView.of(desk.resume(pid, address))

    @router.post("/{pid}/terminate")
    def terminate(_operator: Writer, pid: str, body: StopBody) -> TransferView:
        """End a transfer, saying why."""
        with problems():
            return TransferView.of(desk.terminate(pid, tuple(body.reasons)))

    @router.post("/{pid}/complete")
    def complete(_operator: Writer, pid: str) -> TransferView:
        """Say that a transfer is done."""
        with problems():
            return TransferView.of(desk.complete(pid))

    @router.get("/{pid}/events/stream")
    def stream(_operator: Reader, request: Request, pid: str, last_event_id: LastEvent = 0) -> StreamingResponse:
        """Stream a transfer's events as they happen; ends with the transfer."""
        with problems():
            if service.store.transfer(pid) is None:
                raise UnknownProcessError("there is no such transfer")
        return event_stream(request, service, lambda: service.store.transfer(pid), pid, last_event_id)

    return router


def _address(body: DataAddressBody) -> DataAddress:
    return DataAddress(
        endpoint_type=body.endpoint_type, endpoint=body.endpoint, properties=tuple(body.properties.items())
    )
