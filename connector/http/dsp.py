"""The Dataspace Protocol 2025-1 over HTTP, both roles: a thin shell around the contracts room.

Source: DSP 2025-1, the HTTPS bindings of the catalog, contract negotiation and transfer process protocols. Errors carry
that protocol's typed bodies; unknown and not entitled are both 404.
"""

import contextlib
import hashlib
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from connector.drivers.wire import DSP_PATH, caller_of
from connector.http.access import Peer
from connector.http.dsp_route import MAX_TOKEN, DspRoute
from connector.identity.membership import PeerIdentity
from contracts import messages as m
from contracts.codec import Expand, parse
from contracts.errors import ContractError, UnknownProcessError
from contracts.messages import CatalogRequestMessage
from contracts.processes import Caller, Kind, Process
from contracts.receipts import Answer
from contracts.receipts import answer as shown
from contracts.replies import Standing
from contracts.service import ContractService

VERSION = "2025-1"
_FIRST = frozenset({m.ContractRequestMessage})
_FIRST_OFFER = frozenset({m.ContractOfferMessage})
_EVENT = frozenset({m.ContractNegotiationEventMessage})
_AGREEMENT = frozenset({m.ContractAgreementMessage})
_VERIFICATION = frozenset({m.ContractAgreementVerificationMessage})
_TERMINATION = frozenset({m.ContractNegotiationTerminationMessage})
_TRANSFER_STEPS: dict[str, type] = {
    "start": m.TransferStartMessage,
    "suspension": m.TransferSuspensionMessage,
    "completion": m.TransferCompletionMessage,
    "termination": m.TransferTerminationMessage,
}


async def _body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_body)]


def dsp_router(service: ContractService, expand: Expand | None = None) -> APIRouter:
    """Return the routes under ``/dsp/2025-1``.

    Args:
        service: the contracts room.
        expand: turns a body under a foreign ``@context`` into the protocol's own terms
            (``policies.jsonld.compact_to_dsp``); without it such bodies are refused.
    """
    router = APIRouter(prefix=DSP_PATH, route_class=DspRoute, tags=["dsp"])
    _catalog_routes(router, service, expand)
    _negotiation_routes(router, service, expand)
    _transfer_routes(router, service, expand)
    return router


def version_router() -> APIRouter:
    """Return the version metadata (DSP 2025-1, "Exposure of Versions"), which needs no authentication."""
    router = APIRouter(tags=["dsp"])

    @router.get("/.well-known/dspace-version")
    def versions() -> dict[str, Any]:
        """Return the protocol versions that this participant speaks and where."""
        auth = {"protocol": "OrchardMembership", "version": "1", "profile": ["jws-ed25519"]}
        entry = {
            "version": VERSION,
            "path": DSP_PATH,
            "binding": "HTTPS",
            "serviceId": "orchard",
            "identifierType": "did:web",
            "auth": auth,
        }
        return {"protocolVersions": [entry]}

    return router


def _catalog_routes(router: APIRouter, service: ContractService, expand: Expand | None) -> None:
    accepts = frozenset({CatalogRequestMessage})

    @router.post(
        "/catalog/request",
        openapi_extra=_takes("CatalogRequestMessage"),
        responses={304: {"description": "The page is what If-None-Match names."}},
    )
    def catalog(
        peer: Peer,
        body: Body,
        page: Annotated[str | None, Query(max_length=MAX_TOKEN)] = None,
        known: Annotated[str | None, Header(alias="If-None-Match")] = None,
    ) -> Response:
        """Return the catalog that this peer may see, a page at a time (``Link`` headers lead on and back).

        Asking for a catalog changes nothing, although it is a POST; so a page that the caller has is a 304.
        """
        message = parse(body, accepts, expand).message
        assert isinstance(message, CatalogRequestMessage)  # noqa: S101 - the codec was asked for this type only
        found = service.catalog.request(caller_of(peer), message, page)
        here = f"{service.participant.dsp_url}/catalog/request"
        links = ", ".join(
            f'<{here}?page={token}>; rel="{relation}"'
            for relation, token in (("next", found.next), ("previous", found.previous))
            if token
        )
        answer = JSONResponse(found.document, headers={"Link": links} if links else None)
        answer.headers["ETag"] = tag = f'"{hashlib.sha256(bytes(answer.body) + links.encode()).hexdigest()[:32]}"'
        if known is not None and tag in known:
            return Response(status_code=304, headers={"ETag": tag} | ({"Link": links} if links else {}))
        return answer

    @router.get("/catalog/datasets/{dataset_id:path}")
    def dataset(peer: Peer, dataset_id: str) -> Response:
        """Return one dataset with its offers."""
        return JSONResponse(service.catalog.read(caller_of(peer), dataset_id))


def _negotiation_routes(router: APIRouter, service: ContractService, expand: Expand | None) -> None:  # noqa: C901 - a list of routes
    desk = service.negotiations

    def first(accepts: frozenset[type], peer: Peer, body: bytes) -> Response:
        return _negotiation(desk.receive_first(caller_of(peer), parse(body, accepts, expand)))

    def later(accepts: frozenset[type], peer: Peer, pid: str, body: bytes) -> Response:
        try:
            return _negotiation(desk.receive(caller_of(peer), pid, parse(body, accepts, expand)))
        except ContractError as error:
            _name_process(desk.read, peer, pid, error)
            raise

    @router.post("/negotiations/request", status_code=201, openapi_extra=_takes("ContractRequestMessage"))
    def request(peer: Peer, body: Body) -> Response:
        """Begin a negotiation with us as provider."""
        return first(_FIRST, peer, body)

    @router.post("/negotiations/offers", status_code=201, openapi_extra=_takes("ContractOfferMessage"))
    def offers(peer: Peer, body: Body) -> Response:
        """Begin a negotiation with us as consumer."""
        return first(_FIRST_OFFER, peer, body)

    @router.get("/negotiations/{pid}")
    def negotiation(peer: Peer, pid: str) -> Response:
        """Return a negotiation as we see it."""
        return _negotiation(shown(desk.read(caller_of(peer), pid)))

    @router.post("/negotiations/{pid}/request", openapi_extra=_takes("ContractRequestMessage"))
    def counter_request(peer: Peer, pid: str, body: Body) -> Response:
        """Ask for other terms."""
        return later(_FIRST, peer, pid, body)

    @router.post("/negotiations/{pid}/offers", openapi_extra=_takes("ContractOfferMessage"))
    def counter_offer(peer: Peer, pid: str, body: Body) -> Response:
        """Offer other terms."""
        return later(_FIRST_OFFER, peer, pid, body)

    @router.post("/negotiations/{pid}/events", openapi_extra=_takes("ContractNegotiationEventMessage"))
    def event(peer: Peer, pid: str, body: Body) -> Response:
        """Accept (as consumer) or finalize (as provider)."""
        return later(_EVENT, peer, pid, body)

    @router.post("/negotiations/{pid}/agreement", openapi_extra=_takes("ContractAgreementMessage"))
    def agreement(peer: Peer, pid: str, body: Body) -> Response:
        """Send the agreement."""
        return later(_AGREEMENT, peer, pid, body)

    @router.post(
        "/negotiations/{pid}/agreement/verification", openapi_extra=_takes("ContractAgreementVerificationMessage")
    )
    def verification(peer: Peer, pid: str, body: Body) -> Response:
        """Say that the agreement was verified."""
        return later(_VERIFICATION, peer, pid, body)

    @router.post("/negotiations/{pid}/termination", openapi_extra=_takes("ContractNegotiationTerminationMessage"))
    def termination(peer: Peer, pid: str, body: Body) -> Response:
        """End the negotiation."""
        return later(_TERMINATION, peer, pid, body)


def _transfer_routes(router: APIRouter, service: ContractService, expand: Expand | None) -> None:
    desk = service.transfers

    @router.post("/transfers/request", status_code=201, openapi_extra=_takes("TransferRequestMessage"))
    def request(peer: Peer, body: Body) -> Response:
        """Ask for a transfer under an agreement."""
        accepts = frozenset({m.TransferRequestMessage})
        return _transfer(desk.receive_first(caller_of(peer), parse(body, accepts, expand)))

    @router.get("/transfers/{pid}")
    def transfer(peer: Peer, pid: str) -> Response:
        """Return a transfer process as we see it."""
        return _transfer(shown(desk.read(caller_of(peer), pid)))

    for name, kind in _TRANSFER_STEPS.items():
        router.add_api_route(
            f"/transfers/{{pid}}/{name}",
            _transfer_step(service, expand, kind),
            methods=["POST"],
            name=name,
            summary=kind.__name__,
            openapi_extra=_takes(kind.__name__),
        )


def _transfer_step(service: ContractService, expand: Expand | None, kind: type) -> Callable[..., Response]:
    accepts = frozenset({kind})

    def step(peer: Peer, pid: str, body: Body) -> Response:
        """Move a transfer process on."""
        try:
            return _transfer(service.transfers.receive(caller_of(peer), pid, parse(body, accepts, expand)))
        except ContractError as error:
            _name_process(service.transfers.read, peer, pid, error)
            raise

    return step


def _name_process(read: Callable[[Caller, str], Process], peer: PeerIdentity, pid: str, error: ContractError) -> None:
    """Give the error the pids of the process in the path, where the caller may know them."""
    with contextlib.suppress(UnknownProcessError):
        found = read(caller_of(peer), pid)
        error.pids = found.consumer_pid, found.provider_pid


def _negotiation(answer: Answer) -> Response:
    return _shown(Kind.NEGOTIATION, answer)


def _transfer(answer: Answer) -> Response:
    return _shown(Kind.TRANSFER, answer)


def _shown(kind: Kind, answer: Answer) -> Response:
    standing = Standing(
        kind=kind, state=str(answer.state), consumer_pid=answer.consumer_pid, provider_pid=answer.provider_pid
    )
    return JSONResponse(standing.document(), 201 if answer.created else 200)


def _takes(kind: str) -> dict[str, Any]:
    """Describe the body for the OpenAPI document; the codec reads it, because JSON-LD is no pydantic model."""
    schema = {
        "type": "object",
        "title": kind,
        "required": ["@context", "@type"],
        "properties": {
            "@context": {"type": "array", "items": {"type": "string"}},
            "@type": {"type": "string", "const": kind},
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
