"""What this participant keeps of a negotiation, a transfer, a dataset and their history."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeAlias, TypeVar

from contracts.messages import Agreement, DataAddress, Message, Offer
from contracts.states import NegotiationState, Role
from contracts.transfers import TransferState


class Kind(StrEnum):
    """The two kinds of process."""

    NEGOTIATION = "negotiation"
    TRANSFER = "transfer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caller:
    """An authenticated peer. ``address`` is its public base URL; ``public_key`` its raw Ed25519 key, base64url."""

    participant_id: str
    address: str | None = None
    public_key: str | None = None
    roles: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counterparty:
    """The other side of a process: who it is, and the DSP base URL (or callback address) we send to.

    ``public_key`` and ``roles`` are those of its membership when it last called; unknown before it has.
    """

    participant_id: str
    address: str
    public_key: str | None = None
    roles: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Negotiation:
    """A contract negotiation as this side sees it.

    ``role`` is ours, ``offer`` the last one that was said and ``offered_by`` who said it; ``asked`` is the last one
    that the consumer said, kept to compare later offers with. ``verified`` stays true once the consumer has bound
    itself by verifying the agreement, whatever follows.
    """

    pid: str
    role: Role
    state: NegotiationState
    counterparty: Counterparty
    dataset_id: str
    offer: Offer
    offered_by: Role
    created_at: datetime
    updated_at: datetime
    asked: Offer | None = None
    peer_pid: str | None = None
    agreement: Agreement | None = None
    verified: bool = False
    reasons: tuple[str, ...] = ()

    @property
    def consumer_pid(self) -> str | None:
        """The consumer's id of this negotiation."""
        return self.pid if self.role is Role.CONSUMER else self.peer_pid

    @property
    def provider_pid(self) -> str | None:
        """The provider's id of this negotiation."""
        return self.pid if self.role is Role.PROVIDER else self.peer_pid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """A transfer process as this side sees it; ``role`` is ours."""

    pid: str
    role: Role
    state: TransferState
    counterparty: Counterparty
    dataset_id: str
    agreement_id: str
    format: str
    created_at: datetime
    updated_at: datetime
    peer_pid: str | None = None
    data_address: DataAddress | None = None
    reasons: tuple[str, ...] = ()

    @property
    def consumer_pid(self) -> str | None:
        """The consumer's id of this transfer."""
        return self.pid if self.role is Role.CONSUMER else self.peer_pid

    @property
    def provider_pid(self) -> str | None:
        """The provider's id of this transfer."""
        return self.pid if self.role is Role.PROVIDER else self.peer_pid


Process: TypeAlias = Negotiation | Transfer
P = TypeVar("P", Negotiation, Transfer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One line of a process's history: who did what, the state after it, and why. ``seq`` is set by the store."""

    pid: str
    at: datetime
    direction: str
    step: str
    state: str
    reasons: tuple[str, ...] = ()
    seq: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome(Generic[P]):
    """What one step of the pure machine leads to: the new value, its event, and the message to send, if any."""

    value: P
    event: Event
    outbound: Message | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the catalog shows of a dataset. ``properties`` (view digest, columns, rows band …) are shown as they are."""

    id: str
    title: str
    offer: Offer
    formats: tuple[str, ...]
    description: str = ""
    keywords: tuple[str, ...] = ()
    properties: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgreementRecord:
    """An agreement that was FINALIZED, or seeded: which negotiation it came from and which side we are."""

    agreement: Agreement
    digest: str
    role: Role
    counterparty: Counterparty
    negotiation_pid: str
    concluded_at: datetime


@dataclasses.dataclass(frozen=True, kw_only=True)
class Receipt:
    """A message that was accepted: its id, the digest of its bytes, and the step it took."""

    pid: str
    message_id: str
    digest: str
    step: str
    received_at: datetime


class OutboxStatus(StrEnum):
    """The life of an outbox row. DEAD: given up, the process says why. DROPPED: overtaken by the peer's own end."""

    QUEUED = "queued"
    SENT = "sent"
    DEAD = "dead"
    DROPPED = "dropped"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutboxRow:
    """A message on its way; ``body`` stays the same over every retry. ``lease`` is set while this process sends it."""

    id: int
    pid: str
    kind: Kind
    step: str
    message_id: str
    audience: str
    url: str
    body: str
    status: OutboxStatus
    attempts: int
    due_at: datetime
    created_at: datetime
    lease: str | None = None
    lease_until: datetime | None = None
    last_attempt_at: datetime | None = None
    last_status: int | None = None
    last_code: str | None = None
    last_answer: str | None = None
