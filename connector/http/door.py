"""The short way to the routes that carry negotiations and rounds: past the framework's routing and dependency solving.

The routes are the same objects that stand in the app and in the OpenAPI document; whatever this door does not know, or
a route will not answer the short way, goes on to the app. Source of the protocol's routes: DSP 2025-1, the HTTPS
bindings.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.drivers.wire import DSP_PATH
from connector.http.dsp_route import AT_ONCE, DspRoute
from connector.http.lane import Lane
from connector.http.learning_route import LearningRoute
from connector.http.limits import DEFAULT_LIMIT, announced
from connector.http.operator_route import OperatorRoute

# An operator's request may have to ask a peer first: those that wait must not keep the protocol's messages waiting.
_OPERATORS_AT_ONCE = 16
# As many as the framework has threads: a seat may wait for its database, and contributors come all at once.
_LEARNERS_AT_ONCE = 40
_LEARNING_PATH = "/learning/"
_Short: TypeAlias = DspRoute | OperatorRoute | LearningRoute


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Way:
    pattern: re.Pattern[str]
    route: _Short
    serve: Callable[[Request, bytes], Response | None]
    lane: Lane


class Door:
    """ASGI middleware: serve POSTs to the protocol's, the learning nodes' and operators' short routes, each in one turn of one thread."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Wrap ``app``; of ``routes`` those that can be served here are."""
        self._app = app
        # More threads at once only wait for each other and keep more database connections busy.
        lanes: Mapping[type, Lane] = {
            DspRoute: Lane(AT_ONCE),
            OperatorRoute: Lane(_OPERATORS_AT_ONCE),
            LearningRoute: Lane(_LEARNERS_AT_ONCE),
        }
        taking = [
            _Way(pattern=route.path_regex, route=route, serve=route.server(), lane=lanes[type(route)])
            for route in routes
            if isinstance(route, _Short) and "POST" in (route.methods or ())
        ]
        self._messages = {
            DSP_PATH: [way for way in taking if isinstance(way.route, DspRoute)],
            _LEARNING_PATH: [way for way in taking if isinstance(way.route, LearningRoute)],
        }
        self._commands = {way.route.path: way for way in taking if isinstance(way.route, OperatorRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or pass it on."""
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            way, scope["path_params"] = self._way(scope)
            if way is not None:
                scope["route"] = way.route
                request, body = Request(scope, receive), b""
                answer: Response | None
                try:
                    body = await _read(receive)
                    answer = await way.lane.run(way.serve, request, body)
                except HTTPException as error:
                    answer = way.route.refused(request, error)
                except ClientDisconnect:
                    # Nobody hears the answer; the log has it.
                    answer = Response(status_code=400)
                if answer is not None:
                    await answer(scope, receive, send)
                    return
                receive = _once_more(body, receive)
        await self._app(scope, receive, send)

    def _way(self, scope: Scope) -> tuple[_Way | None, dict[str, str]]:
        path: str = scope["path"]
        if path.startswith(_LEARNING_PATH) and not _is_short(scope):
            return None, {}
        for prefix, ways in self._messages.items():
            if path.startswith(prefix):
                return _matching(ways, path)
        return self._commands.get(path), {}


def _is_short(scope: Scope) -> bool:
    """Say whether a body may be read before its sender is known: the app asks first, and vectors may be long."""
    length = announced(scope)
    return length is not None and length <= DEFAULT_LIMIT


def _matching(ways: Iterable[_Way], path: str) -> tuple[_Way | None, dict[str, str]]:
    for way in ways:
        found = way.pattern.match(path)
        if found is not None:
            return way, found.groupdict()
    return None, {}


async def _read(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        ClientDisconnect: the caller hung up before its end.
    """
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _once_more(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then what follows it."""
    waiting = [body]

    async def given() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return given
