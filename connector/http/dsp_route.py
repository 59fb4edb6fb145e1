"""One turn of a Dataspace Protocol route: the caller's check, the endpoint, and the protocol's own typed errors.

Source: DSP 2025-1, the HTTPS bindings. Unknown and not entitled are both 404.
"""

import inspect
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from connector.drivers.wire import DSP_PATH
from connector.identity.errors import ForbiddenError, OverloadedError, UnauthorizedError
from contracts.errors import ContractError, CursorError, UnknownProcessError
from contracts.processes import Kind
from contracts.replies import Refusal, read_standing

MAX_TOKEN: Final = 2000
AT_ONCE: Final = 8
_CONSUMERS_OWN = ("/offers", "/agreement")


class DspRoute(APIRoute):
    """A route whose errors are the protocol's own typed bodies, and whose whole work is one turn of one thread.

    FastAPI would give the caller's check and the endpoint a thread each, and solve their dependencies anew per request;
    together that costs as much as a message's SQL. The declarations of the endpoints stay, for the OpenAPI document.
    """

    def server(self) -> Callable[[Request, bytes], Response]:
        """Return what answers a request with its whole body, in a thread."""
        endpoint: Callable[..., Response] = self.endpoint
        names = frozenset(inspect.signature(endpoint).parameters)

        def serve(request: Request, body: bytes) -> Response:
            try:
                return endpoint(**_arguments(request, names, body))
            except ContractError as error:
                status = 404 if isinstance(error, UnknownProcessError) else 400
                return _error(request, status, error.code, str(error), error.pids or _claimed(body))
            except (UnauthorizedError, ForbiddenError) as error:
                return _error(request, 401, error.code, str(error))
            except OverloadedError as error:
                return _error(request, 503, error.code, str(error))

        return serve

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler for what comes through the app's routing (messages come through ``door``)."""
        serve = self.server()
        lane = anyio.CapacityLimiter(AT_ONCE)

        async def handle(request: Request) -> Response:
            try:
                body = await request.body()
            except HTTPException as error:
                return self.refused(request, error)
            return await anyio.to_thread.run_sync(serve, request, body, limiter=lane)

        return handle

    def refused(self, request: Request, error: HTTPException) -> Response:
        """Return the typed answer to a request that was stopped before its body was read."""
        return _error(request, error.status_code, "refused", str(error.detail))


def _arguments(request: Request, names: frozenset[str], body: bytes) -> dict[str, Any]:
    known: dict[str, Any] = dict(request.path_params)
    known["peer"] = request.app.state.peers.verify(request.headers.get("authorization"))
    if "\0" in request.scope["path"]:
        # No id holds such a character, and not every database takes the question.
        raise UnknownProcessError("there is no such thing")
    if "body" in names:
        known["body"] = body
    if "page" in names:
        known["page"] = _page(request)
    if "known" in names:
        known["known"] = request.headers.get("if-none-match")
    return known


def _page(request: Request) -> str | None:
    token = request.query_params.get("page")
    if token is not None and len(token) > MAX_TOKEN:
        raise CursorError("page: this token was not handed out here")
    return token


def _error(
    request: Request, status: int, code: str, reason: str, pids: tuple[str | None, str | None] = (None, None)
) -> Response:
    place = request.url.path.partition(DSP_PATH + "/")[2]
    kind = {"negotiations": Kind.NEGOTIATION, "transfers": Kind.TRANSFER}.get(place.partition("/")[0])
    consumer_pid, provider_pid = pids
    if (consumer_pid, provider_pid) == (None, None):
        # All that is known is the id in the path, and by some routes whose it is.
        pid = request.path_params.get("pid")
        ours = place.endswith(_CONSUMERS_OWN)
        consumer_pid, provider_pid = (pid, None) if ours else (None, pid)
    refusal = Refusal(kind=kind, code=code, reasons=(reason,), consumer_pid=consumer_pid, provider_pid=provider_pid)
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(refusal.document(), status, headers)


def _claimed(body: bytes) -> tuple[str | None, str | None]:
    """The pids that a message names: the protocol wants both in an error, and the caller knows no others."""
    try:
        said = read_standing(body)
    except ContractError:
        return None, None
    return said.consumer_pid, said.provider_pid
