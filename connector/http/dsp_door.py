"""The short way to the routes that take the protocol's messages: past the framework's routing and dependency solving.

The routes are the same objects that stand in the app and in the OpenAPI document; whatever this door does not know
goes on to the app. Source: DSP 2025-1, the HTTPS bindings.
"""

from collections.abc import Iterable

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.drivers.wire import DSP_PATH
from connector.http.dsp_route import AT_ONCE, DspRoute, refused
from connector.http.lane import Lane


class DspDoor:
    """ASGI middleware: serve POSTs to DSP routes, each in one turn of one thread."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Wrap ``app``; of ``routes`` those of the protocol that take a POST are served here."""
        self._app = app
        taking = [route for route in routes if isinstance(route, DspRoute) and "POST" in (route.methods or ())]
        self._ways = [(route.path_regex, route, route.server()) for route in taking]
        # More threads at once only wait for each other and keep more database connections busy.
        self._lane = Lane(AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a message or pass the request on."""
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            path = scope["path"]
            if path.startswith(DSP_PATH):
                for pattern, route, serve in self._ways:
                    found = pattern.match(path)
                    if found is not None:
                        scope["route"], scope["path_params"] = route, found.groupdict()
                        request = Request(scope, receive)
                        try:
                            answer = await self._lane.run(serve, request, await request.body())
                        except HTTPException as error:
                            answer = refused(request, error)
                        except ClientDisconnect:
                            # Nobody hears the answer; the log has it.
                            answer = Response(status_code=400)
                        await answer(scope, receive, send)
                        return
        await self._app(scope, receive, send)
