"""One turn of a route between learning nodes: the caller's checks and the endpoint, in one thread.

FastAPI gives each check, the endpoint and the answer's writing a turn of a thread each, and solves their dependencies
anew per request; together that costs more than what a round's messages do. The declarations of the endpoints stay, for
the OpenAPI document, and are what is read here.
"""

import functools
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeAlias, get_args

from fastapi import Body, Depends, Request, Response
from fastapi.params import Body as BodyMark
from fastapi.params import Depends as DependsMark
from fastapi.params import Header as HeaderMark
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from connector.http.access import require_peer
from connector.http.short_way import JSON, refused, says_json

_LONGEST_NUMBER: Final = 9
# What a request says by itself, and what must be asked about its sender.
_Reader: TypeAlias = Callable[[Request, bytes], Any]
_Check: TypeAlias = Callable[[Request, dict[Callable[..., Any], Any]], Any]


async def raw_body(request: Request) -> bytes:
    """Return the request's body as it came."""
    return await request.body()


Raw = Annotated[bytes, Depends(raw_body)]
JsonBody = Annotated[dict[str, Any], Body()]


class LearningRoute(APIRoute):
    """A route whose endpoint takes its caller, parts of its path, headers, and a body that is JSON or raw."""

    def server(self) -> Callable[[Request, bytes], Response | None]:
        """Return what answers a request with its whole body, in a thread.

        It returns ``None`` for one that is not as it should be, before anything is asked about its sender, whose token
        is good for once: the app knows how to say what is wrong with it.
        """
        endpoint: Callable[..., object] = self.endpoint
        signature = inspect.signature(endpoint)
        readers, checks = _sorted(signature)
        write: Callable[..., bytes] = TypeAdapter(signature.return_annotation).dump_json
        status = self.status_code or 200

        def serve(request: Request, body: bytes) -> Response | None:
            try:
                given = {name: read(request, body) for name, read in readers.items()}
            except (ValueError, RecursionError):
                return None
            known: dict[Callable[..., Any], Any] = {}
            try:
                given |= {name: check(request, known) for name, check in checks.items()}
                view = endpoint(**given)
            except Exception as error:  # noqa: BLE001 - raised again where the app has no answer to it
                return refused(request, error)
            return Response(write(view), status, media_type=JSON)

        return serve

    def refused(self, request: Request, error: Exception) -> Response:
        """Return the app's own answer to an error; raises it where there is none, for the outermost layer to answer."""
        return refused(request, error)


def _sorted(signature: inspect.Signature) -> tuple[dict[str, _Reader], dict[str, _Check]]:
    """Return how to read each parameter: from the request alone, or by asking who sent it."""
    readers, checks = dict[str, _Reader](), dict[str, _Check]()
    for name, parameter in signature.parameters.items():
        mark = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
        if isinstance(mark, DependsMark) and mark.dependency is raw_body:
            readers[name] = _raw
        elif isinstance(mark, DependsMark) and mark.dependency is not None:
            checks[name] = _check(mark.dependency)
        elif isinstance(mark, HeaderMark):
            readers[name] = _header(name, parameter.default)
        elif isinstance(mark, BodyMark):
            readers[name] = _json
        elif mark is None and parameter.annotation in (str, int):
            readers[name] = functools.partial(_part, name, number=parameter.annotation is int)
        else:
            raise TypeError(f"a learning route cannot take {name}: {get_args(parameter.annotation)}")
    return readers, checks


def _raw(_request: Request, body: bytes) -> bytes:
    return body


def _json(request: Request, body: bytes) -> dict[str, Any]:
    if not says_json(request):
        raise ValueError(JSON)
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError(JSON)  # noqa: TRY004 - as any other body that is not as it should be
    return value


def _header(name: str, default: object) -> _Reader:
    said = name.replace("_", "-")

    def read(request: Request, _body: bytes) -> object:
        value = request.headers.get(said, default)
        if value is inspect.Parameter.empty:
            raise ValueError(said)
        return value

    return read


def _part(name: str, request: Request, _body: bytes, *, number: bool) -> str | int:
    text: str = request.path_params[name]
    if not number:
        return text
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER):
        raise ValueError(name)
    return int(text)


def _check(ask: Callable[..., Any]) -> _Check:
    """Return what asks a dependency about a request's sender; each is asked once."""
    readers, checks = ({}, {}) if ask is require_peer else _sorted(inspect.signature(ask))

    def check(request: Request, known: dict[Callable[..., Any], Any]) -> Any:
        if ask not in known:
            given = {name: read(request, b"") for name, read in readers.items()}
            given |= {name: other(request, known) for name, other in checks.items()}
            known[ask] = require_peer(request) if ask is require_peer else ask(**given)
        return known[ask]

    return check
