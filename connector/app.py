"""The API process as a value: ``create_app(settings, wiring)``; there is no global app."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry

from connector.http.access import PeerVerifier
from connector.http.door import Door
from connector.http.health import Probe, health_router
from connector.http.limits import BodyLimit
from connector.http.problems import install_problem_handlers
from connector.http.texts import StorableTexts
from connector.identity.operators import OperatorVerifier
from connector.observability import RequestLog
from connector.settings import Settings

ExceptionHandler = Callable[[Request, Exception], Response]

VERSION = "0.1.0"


class Driver(Protocol):
    """Something that runs beside the routes in threads of its own: senders, sweeps, greeters."""

    def start(self) -> None:
        """Start without waiting."""
        ...

    def stop(self) -> None:
        """End soon and wait for the end."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wiring:
    """What an app is made of: who may call, the rooms' routers bound to their services, and what runs beside them.

    Routers carry their own prefix (``/dsp/2025-1``, ``/management/...``, ``/consent``, ``/learning``). Drivers start in
    order and stop in reverse; then every function of ``closing`` is called, in order.
    """

    peers: PeerVerifier
    operators: OperatorVerifier
    routers: tuple[APIRouter, ...] = ()
    drivers: tuple[Driver, ...] = ()
    probes: tuple[Probe, ...] = ()
    handlers: tuple[tuple[type[Exception], ExceptionHandler], ...] = ()
    closing: tuple[Callable[[], None], ...] = ()
    metrics: CollectorRegistry = dataclasses.field(default_factory=CollectorRegistry)


def create_app(settings: Settings, wiring: Wiring) -> FastAPI:
    """Return the ASGI application of one participant.

    Args:
        settings: the participant's configuration.
        wiring: services and drivers; see :mod:`connector.wiring`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            for close in reversed(wiring.closing):
                stack.callback(close)
            for driver in wiring.drivers:
                driver.start()
                stack.callback(driver.stop)
            yield

    # The interactive pages load scripts from elsewhere, and the documents are published in openapi/.
    app = FastAPI(
        title="Orchard",
        version=VERSION,
        summary=f"Participant {settings.participant.name}",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.peers = wiring.peers
    app.state.operators = wiring.operators
    install_problem_handlers(app)
    for kind, handler in wiring.handlers:
        app.add_exception_handler(kind, handler)
    app.add_middleware(Door, routes=[route for router in wiring.routers for route in router.routes])
    app.add_middleware(StorableTexts)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestLog, metrics=wiring.metrics)
    for router in (health_router(wiring.probes, wiring.metrics), *wiring.routers):
        # Not include_router: matching a request through an included router takes ten times as long a route.
        app.router.routes.extend(router.routes)
    return app
