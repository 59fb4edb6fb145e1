"""Management routes: negotiations and agreements."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from connector.http.access import Reader, Writer
from connector.http.contract_views import (
    AgreementPage,
    AgreementView,
    CounterBody,
    EventView,
    NegotiationBody,
    NegotiationPage,
    NegotiationView,
    StopBody,
    problems,
)
from connector.http.datasets import known_peer
from connector.http.operator_route import OperatorRoute
from contracts import ports
from contracts.errors import UnknownProcessError
from contracts.messages import Offer
from contracts.ports import PeerDirectory
from contracts.processes import Counterparty, Event, Kind, Process
from contracts.recorder import is_final
from contracts.service import ContractService
from contracts.states import NegotiationState, Role

_LOOK_SECONDS = 0.25
# Something between us may close a connection on which nothing is said.
_BREATH_SECONDS = 15.0


Word = Annotated[str | None, Query(max_length=2048)]
Place = Annotated[str | None, Query(max_length=4000)]
Limit = Annotated[int, Query(ge=1, le=500)]
LastEvent = Annotated[int, Header(ge=0, lt=1 << 62)]


def agreement_query(
    role: Role | None = None,
    counterparty: Word = None,
    dataset: Word = None,
    cursor: Place = None,
    limit: Limit = 50,
) -> ports.Query:
    """Read which agreements are asked for."""
    return ports.Query(role=role, counterparty=counterparty, dataset_id=dataset, cursor=cursor, limit=limit)


def negotiation_query(
    asked: Annotated[ports.Query, Depends(agreement_query)],
    state: NegotiationState | None = None,
    agreement: Word = None,
) -> ports.Query:
    """Read which negotiations are asked for."""
    return dataclasses.replace(asked, state=state, agreement_id=agreement)


def negotiations_router(service: ContractService, peers: PeerDirectory) -> APIRouter:  # noqa: C901 - a list of routes
    """Return the routes under ``/management/negotiations`` and ``/management/agreements``."""
    router = APIRouter(prefix="/management", tags=["negotiations"])
    desk = service.negotiations

    def start(_operator: Writer, body: NegotiationBody) -> NegotiationView:
        """Start a negotiation: ask for a peer's dataset, or offer one of ours to it."""
        with problems():
            peer = known_peer(peers, body.participant_id)
            counterparty = Counterparty(participant_id=peer.participant_id, address=peer.dsp_url)
            offer = body.offer.value() if body.offer else None
            if body.role is Role.PROVIDER:
                return NegotiationView.of(desk.offer(counterparty, body.dataset_id, offer))
            return NegotiationView.of(desk.request(counterparty, _wanted(service, peer, body.dataset_id, offer)))

    router.add_api_route("/negotiations", start, methods=["POST"], status_code=201, route_class_override=OperatorRoute)

    @router.get("/negotiations")
    def negotiations(_operator: Reader, query: Annotated[ports.Query, Depends(negotiation_query)]) -> NegotiationPage:
        """List negotiations, newest first."""
        with problems():
            page = service.store.processes(Kind.NEGOTIATION, query)
        waiting = service.store.undelivered([one.pid for one in page.items])
        shown = [NegotiationView.of(one).with_messages(waiting.get(one.pid, ())) for one in page.items]
        return NegotiationPage(negotiations=shown, next=page.cursor, previous=page.previous)

    @router.get("/negotiations/{pid}")
    def negotiation(_operator: Reader, pid: str) -> NegotiationView:
        """Show a negotiation with its history, the reasons of its stop and its last and next delivery."""
        with problems():
            found = service.store.negotiation(pid)
            if found is None:
                raise UnknownProcessError("there is no such negotiation")
        view = NegotiationView.of(found).with_messages(service.store.deliveries(pid))
        view.events = [EventView.of(event) for event in service.store.events(pid)]
        return view

    @router.post("/negotiations/{pid}/approve")
    def approve(_operator: Writer, pid: str) -> NegotiationView:
        """Say yes to what is on the table: agree as provider, accept as consumer."""
        with problems():
            return NegotiationView.of(desk.approve(pid))

    @router.post("/negotiations/{pid}/counter")
    def counter(_operator: Writer, pid: str, body: CounterBody) -> NegotiationView:
        """Answer with other terms."""
        with problems():
            return NegotiationView.of(desk.counter(pid, body.offer.value()))

    @router.post("/negotiations/{pid}/terminate")
    def terminate(_operator: Writer, pid: str, body: StopBody) -> NegotiationView:
        """End a negotiation, saying why."""
        with problems():
            return NegotiationView.of(desk.terminate(pid, tuple(body.reasons)))

    @router.get("/negotiations/{pid}/events/stream")
    def stream(_operator: Reader, request: Request, pid: str, last_event_id: LastEvent = 0) -> StreamingResponse:
        """Stream a negotiation's events as they happen; ends with the negotiation."""
        with problems():
            if service.store.negotiation(pid) is None:
                raise UnknownProcessError("there is no such negotiation")
        return event_stream(request, service, lambda: service.store.negotiation(pid), pid, last_event_id)

    @router.get("/agreements")
    def agreements(_operator: Reader, query: Annotated[ports.Query, Depends(agreement_query)]) -> AgreementPage:
        """List agreements, newest first."""
        with problems():
            page = service.store.agreements(query)
        shown = [AgreementView.of(one) for one in page.items]
        return AgreementPage(agreements=shown, next=page.cursor, previous=page.previous)

    @router.get("/agreements/{agreement_id:path}")
    def agreement(_operator: Reader, agreement_id: str) -> AgreementView:
        """Show one agreement."""
        with problems():
            found = service.store.agreement(agreement_id)
            if found is None:
                raise UnknownProcessError("there is no such agreement")
        return AgreementView.of(found)

    return router


def event_stream(
    request: Request, service: ContractService, read: Callable[[], Process | None], pid: str, after: int
) -> StreamingResponse:
    """Return a process's history as server-sent events; each event's id is its sequence number."""

    def look(seen: int) -> tuple[list[Event], bool]:
        process = read()
        return list(service.store.events(pid, after=seen)), process is None or is_final(process)

    async def lines() -> AsyncIterator[str]:
        seen, ended, silent = after, False, 0.0
        while not ended and not await request.is_disconnected():
            found, ended = await run_in_threadpool(look, seen)
            for event in found:
                seen = event.seq
                data = json.dumps(EventView.of(event).model_dump(mode="json"))
                yield f"id: {event.seq}\nevent: {event.step}\ndata: {data}\n\n"
            silent = 0.0 if found else silent + _LOOK_SECONDS
            if silent >= _BREATH_SECONDS:
                silent = 0.0
                yield ": nothing new\n\n"
            if not ended:
                await asyncio.sleep(_LOOK_SECONDS)

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _wanted(service: ContractService, peer: ports.Peer, dataset_id: str, offer: Offer | None) -> Offer:
    """The offer to ask for: the operator's, or the first that the peer publishes for the dataset."""
    if offer is None:
        published = service.peer_catalogs.find(peer, dataset_id).offers
        if not published:
            raise UnknownProcessError("the peer publishes no offer for this dataset")
        offer = published[0]
    return dataclasses.replace(offer, target=dataset_id)
