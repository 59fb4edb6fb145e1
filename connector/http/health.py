"""Health and metrics: is the process alive, can it serve, what has it done."""

import dataclasses
from collections.abc import Callable, Sequence

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from connector.http.access import Scoped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
    """One thing the process depends on.

    ``check`` raises when it is not there. One that is not ``required`` is reported and leaves the process ready:
    negotiations need no broker.
    """

    name: str
    check: Callable[[], None]
    required: bool


def health_router(probes: Sequence[Probe], metrics: CollectorRegistry) -> APIRouter:
    """Return the routes under ``/health`` and ``/metrics``."""
    router = APIRouter(tags=["health"])

    @router.get("/health/live")
    def live() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "live"}

    @router.get("/health/ready", responses={503: {"description": "A required part is missing."}})
    def ready() -> JSONResponse:
        """Say whether every required part is there, and which parts are not."""
        found = {probe.name: _state(probe) for probe in probes}
        well = all(found[probe.name] == "ok" for probe in probes if probe.required)
        return JSONResponse({"status": "ready" if well else "not-ready", "parts": found}, 200 if well else 503)

    @router.get("/metrics", dependencies=[Depends(Scoped("read"))], response_class=Response)
    def prometheus() -> Response:
        """Return the process's counters in Prometheus' text format; they are for operators, so it needs a token."""
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    return router


def _state(probe: Probe) -> str:
    try:
        probe.check()
    except Exception as error:  # noqa: BLE001 - a probe reports whatever is wrong, by its kind and never its text
        return str(getattr(error, "code", type(error).__name__))
    return "ok"
