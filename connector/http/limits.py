"""How much a request may send, by where it is sent to."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.http.problems import problem_body

_MEGABYTE = 1024 * 1024
DEFAULT_LIMIT = _MEGABYTE
BODY_LIMITS: Mapping[str, int] = {
    "/management": 8 * _MEGABYTE,
    "/consent": 64 * _MEGABYTE,
    # Masked vectors: 250 million parameters of four bytes.
    "/learning": 1024 * _MEGABYTE,
}
_TITLE = "The request is too large"


class BodyLimit:
    """ASGI middleware: refuse bodies over the limit, by their announced or their actual length."""

    def __init__(self, app: ASGIApp, limits: Mapping[str, int] = BODY_LIMITS) -> None:
        """Wrap ``app``; ``limits`` are bytes by path prefix, one mebibyte elsewhere."""
        self._app = app
        self._limits = dict(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = next(
            (self._limits[prefix] for prefix in self._limits if scope["path"].startswith(prefix)), DEFAULT_LIMIT
        )
        if (announced(scope) or 0) > limit:
            await _refusal(limit)(scope, receive, send)
            return
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > limit:
                raise HTTPException(413, _detail(limit))
            return message

        await self._app(scope, counted, send)


def announced(scope: Scope) -> int | None:
    """Return how long a request says that its body is; None where it does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


def _detail(limit: int) -> str:
    return f"This route reads at most {limit} bytes."


def _refusal(limit: int) -> JSONResponse:
    body = problem_body(413, "request-too-large", _TITLE, _detail(limit))
    return JSONResponse(body, 413, {"connection": "close"}, media_type="application/problem+json")
