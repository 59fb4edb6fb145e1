"""What operators see and send of datasets, negotiations, agreements and transfers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from connector.http.problems import ProblemError
from contracts import states, transfers
from contracts.agreement import agreement_digest
from contracts.codec import agreement_document, data_address_document, read_offer
from contracts.errors import (
    ContractError,
    CursorError,
    IllegalCommandError,
    MalformedMessageError,
    PeerAnswerError,
    PeerUnavailableError,
    PolicyDeniedError,
    UnknownProcessError,
    UnsupportedFilterError,
)
from contracts.messages import Offer
from contracts.processes import AgreementRecord, Dataset, Event, Negotiation, OutboxRow, OutboxStatus, Process, Transfer
from contracts.recorder import is_final
from contracts.states import Role

_STATUS: dict[type[ContractError], tuple[int, str]] = {
    UnknownProcessError: (404, "Not found"),
    IllegalCommandError: (409, "Not possible in this state"),
    PolicyDeniedError: (409, "The policy does not allow this"),
    MalformedMessageError: (422, "The request is not valid"),
    CursorError: (422, "The request is not valid"),
    UnsupportedFilterError: (422, "The request is not valid"),
    PeerUnavailableError: (502, "The peer could not be reached"),
    PeerAnswerError: (502, "The peer's answer cannot be used"),
}


@contextmanager
def problems() -> Iterator[None]:
    """Turn the room's errors into problem details."""
    try:
        yield
    except ContractError as error:
        status, title = _STATUS.get(type(error), (400, "The request was refused"))
        raise ProblemError(status, error.code, title, str(error)) from error


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OfferBody(BaseModel):
    """An ODRL offer in the protocol's compact JSON (``@id``, ``permission``, ``prohibition``, ``obligation``)."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"required": ["@id"]})

    def value(self) -> Offer:
        """Return the offer, its rules checked."""
        return read_offer(self.model_extra or {})


class DatasetBody(_Body):
    """A dataset to publish with its offer."""

    id: str = Field(min_length=1, max_length=300)
    title: str = Field(max_length=500)
    description: str = Field(default="", max_length=10_000)
    keywords: list[str] = Field(default_factory=list, max_length=100)
    formats: list[str] = Field(default_factory=lambda: ["FederatedTraining"], min_length=1, max_length=20)
    offer: OfferBody
    properties: dict[str, Any] = Field(default_factory=dict)

    def value(self) -> Dataset:
        """Return the dataset."""
        return Dataset(
            id=self.id,
            title=self.title,
            description=self.description,
            keywords=tuple(self.keywords),
            formats=tuple(self.formats),
            offer=self.offer.value(),
            properties=self.properties,
        )


class CatalogRequestBody(_Body):
    """Whose catalog to read: a participant that is known."""

    participant_id: str
    filter: dict[str, Any] | None = None
    cursor: str | None = None


class NegotiationBody(_Body):
    """A negotiation to start. As consumer, without ``offer``, the peer's published offer is asked for."""

    participant_id: str
    dataset_id: str = Field(min_length=1, max_length=300)
    offer: OfferBody | None = None
    role: Role = Role.CONSUMER


class CounterBody(_Body):
    """Other terms for the dataset that is being negotiated."""

    offer: OfferBody


class StopBody(_Body):
    """Why something is stopped; told to the peer."""

    reasons: list[str] = Field(default_factory=list, max_length=20)


class DataAddressBody(_Body):
    """A data address: for a push where to send, for a pull where to fetch."""

    endpoint_type: str
    endpoint: str | None = None
    properties: dict[str, str] = Field(default_factory=dict)


class ResumeBody(_Body):
    """A transfer to go on with; a provider may give a fresh data address."""

    data_address: DataAddressBody | None = None


class TransferBody(_Body):
    """A transfer to ask for under an agreement."""

    agreement_id: str
    format: str = "FederatedTraining"
    data_address: DataAddressBody | None = None


class EventView(BaseModel):
    """One line of a process's history."""

    seq: int
    at: datetime
    direction: str
    step: str
    state: str
    reasons: list[str]

    @classmethod
    def of(cls, event: Event) -> Self:
        """Show an event."""
        return cls(
            seq=event.seq,
            at=event.at,
            direction=event.direction,
            step=event.step,
            state=event.state,
            reasons=list(event.reasons),
        )


class DeliveryView(BaseModel):
    """The message that was last tried or waits to be sent: what the peer said, and when we try again.

    ``last_code`` and ``last_answer`` are the code and the reasons of the peer's answer; where it gave none, how it
    answered or that it did not. ``given_up``: nothing will be tried any more, and the process says how it ended.
    """

    step: str
    message_id: str
    status: str
    given_up: bool
    attempts: int
    last_attempt_at: datetime | None
    last_status: int | None
    last_code: str | None
    last_answer: str | None
    next_attempt_at: datetime | None

    @classmethod
    def of_row(cls, row: OutboxRow) -> Self:
        """Show a row of the outbox."""
        return cls(
            step=row.step,
            message_id=row.message_id,
            status=row.status,
            given_up=row.status is OutboxStatus.DEAD,
            attempts=row.attempts,
            last_attempt_at=row.last_attempt_at,
            last_status=row.last_status,
            last_code=row.last_code,
            last_answer=row.last_answer,
            next_attempt_at=row.due_at if row.status is OutboxStatus.QUEUED else None,
        )

    @classmethod
    def of(cls, rows: Sequence[OutboxRow]) -> Self | None:
        """Show the first queued row, else the last one that was tried."""
        waiting = next((row for row in rows if row.status is OutboxStatus.QUEUED), None)
        row = waiting or (rows[-1] if rows else None)
        return cls.of_row(row) if row is not None else None


class ProcessView(BaseModel):
    """What negotiations and transfers share.

    ``delivery`` is the message that stands between the two sides, if any; ``dead_letters`` are those that were given up.
    """

    pid: str
    peer_pid: str | None
    role: Role
    state: str
    counterparty: str
    dataset_id: str
    agreement_id: str | None
    reasons: list[str]
    waiting_for: str | None
    created_at: datetime
    updated_at: datetime
    delivery: DeliveryView | None = None
    dead_letters: list[DeliveryView] = Field(default_factory=list)
    events: list[EventView] | None = None

    def with_messages(self, rows: Sequence[OutboxRow]) -> Self:
        """Show what became of the messages to the peer."""
        self.delivery = DeliveryView.of(rows)
        self.dead_letters = [DeliveryView.of_row(row) for row in rows if row.status is OutboxStatus.DEAD]
        return self


class NegotiationView(ProcessView):
    """A negotiation."""

    offer: dict[str, Any]

    @classmethod
    def of(cls, value: Negotiation) -> Self:
        """Show a negotiation."""
        agreement_id = value.agreement.id if value.agreement else None
        return cls(**_shared(value), agreement_id=agreement_id, offer=value.offer.document())


class TransferView(ProcessView):
    """A transfer. The data address is shown without its properties: they may hold a token."""

    format: str
    endpoint_type: str | None
    endpoint: str | None

    @classmethod
    def of(cls, value: Transfer) -> Self:
        """Show a transfer."""
        address = data_address_document(value.data_address) if value.data_address else {}
        return cls(
            **_shared(value),
            agreement_id=value.agreement_id,
            format=value.format,
            endpoint_type=address.get("endpointType"),
            endpoint=address.get("endpoint"),
        )


class AgreementView(BaseModel):
    """A concluded agreement, with the digest that names it."""

    id: str
    digest: str
    role: Role
    counterparty: str
    dataset_id: str
    negotiation_pid: str
    concluded_at: datetime
    signed: bool
    agreement: dict[str, Any]

    @classmethod
    def of(cls, record: AgreementRecord) -> Self:
        """Show an agreement."""
        return cls(
            id=record.agreement.id,
            digest=record.digest or agreement_digest(record.agreement),
            role=record.role,
            counterparty=record.counterparty.participant_id,
            dataset_id=record.agreement.target,
            negotiation_pid=record.negotiation_pid,
            concluded_at=record.concluded_at,
            signed=record.agreement.signature is not None,
            agreement=agreement_document(record.agreement),
        )


class NegotiationPage(BaseModel):
    """Negotiations, newest first; ``next`` and ``previous`` are the cursors of the pages around this one."""

    negotiations: list[NegotiationView]
    next: str | None
    previous: str | None


class TransferPage(BaseModel):
    """Transfers, newest first."""

    transfers: list[TransferView]
    next: str | None
    previous: str | None


class AgreementPage(BaseModel):
    """Agreements, newest first."""

    agreements: list[AgreementView]
    next: str | None
    previous: str | None


class DatasetPage(BaseModel):
    """Our datasets by id, as the catalog shows them."""

    datasets: list[dict[str, Any]]
    next: str | None


class PeerCatalogView(BaseModel):
    """A page of a peer's catalog, as it is now; the cursors lead on and back where the peer says so."""

    participant_id: str
    datasets: list[dict[str, Any]]
    next: str | None
    previous: str | None


def _shared(value: Process) -> dict[str, Any]:
    return {
        "pid": value.pid,
        "peer_pid": value.peer_pid,
        "role": value.role,
        "state": value.state,
        "counterparty": value.counterparty.participant_id,
        "dataset_id": value.dataset_id,
        "reasons": list(value.reasons),
        "waiting_for": waiting_for(value),
        "created_at": value.created_at,
        "updated_at": value.updated_at,
    }


def waiting_for(value: Process) -> str | None:
    """Say whose turn it is: ``us``, ``peer``, or ``None`` when the process has ended."""
    if is_final(value):
        return None
    if isinstance(value, Negotiation):
        ours = [
            step
            for step in states.TABLE[value.role].get(value.state, {})
            if step is not states.NegotiationStep.TERMINATE
        ]
        return "us" if ours else "peer"
    started = value.state is not transfers.TransferState.REQUESTED
    return None if started else ("us" if value.role is Role.PROVIDER else "peer")
