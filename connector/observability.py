"""What the process says about itself: structured log, access log, request metrics. Never a query string or a body."""

import logging
import sys
import time
import traceback
from pathlib import Path
from typing import Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_QUIET = ("/health/", "/metrics")
_REFUSED = 400
_FRAMES = 8
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def configure_logging(form: Literal["console", "json"]) -> None:
    """Send structlog and the standard library's log to standard error, as lines for people or as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _places_only, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # They log every request with its whole URL, or every step of a migration.
    for chatty in ("httpx2", "httpcore2", "httpx", "httpcore", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _places_only(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Say of an exception what it is and where it was raised: its message and its variables may be anybody's data.

    Printing the variables of a deep stack would also stop the event loop for many seconds, at the word of any caller.
    """
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else given if isinstance(given, BaseException) else sys.exc_info()[1]
    if given and error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        event["error"] = type(error).__name__
        event["raised_at"] = " < ".join(f"{Path(frame.filename).stem}:{frame.lineno}" for frame in reversed(frames))
    return event


class RequestLog:
    """ASGI middleware: one log line and one observation per request, by route and without its query."""

    def __init__(self, app: ASGIApp, metrics: CollectorRegistry) -> None:
        """Wrap ``app`` and count into ``metrics``."""
        self._app = app
        self._log = structlog.get_logger("orchard.access")
        self._plain = logging.getLogger("orchard.access")
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        names = ("method", "route", "status")
        self._requests = Counter("orchard_http_requests", "Requests answered.", names, registry=metrics)
        self._seconds = Histogram(
            "orchard_http_request_seconds", "Time to answer.", ("route",), registry=metrics, buckets=_SECONDS
        )

    def _count(self, method: str, route: str, status: int, seconds: float) -> None:
        # Finding the two by their labels costs more than counting.
        found = self._known.get((method, route, status))
        if found is None:
            found = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._known[method, route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._count(scope["method"], route, status, seconds)
        path = scope["path"]
        if (status >= _REFUSED or self._plain.isEnabledFor(logging.DEBUG)) and not path.startswith(_QUIET):
            # What went well is counted above; a line for each is a tenth of what a training round costs this process.
            write = self._log.debug if status < _REFUSED else self._log.info
            write("request", method=scope["method"], path=path, status=status, ms=round(seconds * 1000, 1))
