"""The routes by which Prometheus-X connectors and their consent service drive an exchange; see ``connector.consent_exchange``.

That ecosystem calls them without a name. What they are told is worth what the consent service confirms of it; only
``data/import`` needs a caller who is a member.
"""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from connector.consent_exchange import PREFIX, ConsentExchange
from connector.http.access import Peer
from connector.http.problems import ProblemError
from policies.errors import ConsentFormatError, EvidenceError

_LONGEST = 500_000


class Envelope(BaseModel):
    """A consent as the consent service hands it out."""

    model_config = ConfigDict(frozen=True)

    signedConsent: str = Field(max_length=_LONGEST)  # noqa: N815 - their shape
    encrypted: str = Field(max_length=10_000)


class ConsentForConsumer(Envelope):
    """The same with where the consumer asks for the data."""

    dataProviderEndpoint: str = Field(max_length=1000)  # noqa: N815 - their shape


class Done(BaseModel):
    """It was done, and not only heard."""

    message: str = "OK"


class Taken(Done):
    """Which datasets the consumer may ask to compute on."""

    datasets: list[str]


def prometheus_x_exchange_router(exchange: ConsentExchange | None) -> APIRouter:
    """Return the routes below ``/prometheus-x``; without a configured consent service each answers so."""
    router = APIRouter(prefix=PREFIX, tags=["prometheus-x"])

    def ready() -> ConsentExchange:
        if exchange is None:
            detail = "this participant has no consent service with a key ([consent] service and service_key)"
            raise ProblemError(404, "no-consent-service", "Not set up", detail)
        return exchange

    @router.post("/consent/export", summary="Provider: take a consent from its service and attach a token to it")
    def export_consent(body: Envelope) -> Done:
        found = ready()
        with _Told():
            found.export_consent(body.signedConsent, body.encrypted)
        return Done()

    @router.post("/consent/import", summary="Consumer: take a consent from its service and ask the provider")
    def import_consent(body: ConsentForConsumer) -> Done:
        found = ready()
        with _Told():
            found.import_consent(body.dataProviderEndpoint, body.signedConsent, body.encrypted)
        return Done()

    @router.post("/data/export", summary="Provider: check the consent at its service, then say where to compute")
    def export_data(body: Envelope) -> Done:
        found = ready()
        with _Told():
            found.export_data(body.signedConsent, body.encrypted)
        return Done()

    @router.post("/data/import", summary="Consumer: take where to compute; a person's data is refused")
    def import_data(peer: Peer, body: dict[str, Any]) -> Taken:
        found = ready()
        with _Told():
            return Taken(datasets=found.import_data(peer, body))

    return router


class _Told:
    """What an envelope lacks becomes a problem."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Turn what the consent room says into a problem."""
        if isinstance(error, (EvidenceError, ConsentFormatError)):
            raise ProblemError(422, error.code, "The consent cannot be read", str(error)) from error
