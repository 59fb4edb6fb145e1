"""What this room needs from outside, as protocols; ``connector`` supplies the adapters.

Store: ``connector.storage.contracts.ContractStore``. PeerCalls: ``connector.drivers.wire.PeerWire`` over the peers
client. Doorbell: ``connector.drivers.outbox.Senders``. PolicyGate: ``policies.gate.PolicyGate``.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from contracts.commands import NegotiationCommand, TransferCommand
from contracts.processes import (
    AgreementRecord,
    Caller,
    Dataset,
    Event,
    Kind,
    Negotiation,
    OutboxRow,
    Process,
    Receipt,
    Transfer,
)

T = TypeVar("T")
Clock: TypeAlias = Callable[[], datetime]
Ids: TypeAlias = Callable[[], str]


class PolicyVerdict(Protocol):
    """A policy decision: anything but ``allowed`` denies, and ``refusals`` say which constraint."""

    @property
    def allowed(self) -> bool:
        """Whether the policy permits the use."""
        ...

    @property
    def refusals(self) -> Sequence[str]:
        """One sentence per constraint that denied; empty for a permission."""
        ...


class PolicyGate(Protocol):
    """Evaluates ODRL rules; ``policies.gate.PolicyGate`` is one. ``scope`` is ``catalog``, ``negotiation`` or ``transfer``.

    ``policy`` is an ODRL document (``@id``, ``@type``, ``permission`` …). ``facts`` holds what is known:
    ``assignee`` (the consumer's participant id), ``roles`` (its membership roles) and, where the consumer stated
    one, ``purpose`` (an IRI).
    """

    def decide(self, scope: str, policy: Mapping[str, Any], facts: Mapping[str, Any], *, action: str) -> PolicyVerdict:
        """Return the verdict on an action (its full name); what cannot be known denies."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later:
    """A behaviour's answer: ask me again after so many seconds (the question survives a restart)."""

    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assessment:
    """What the service found about the step that is open: whether our terms and policy allow going on, and why not."""

    acceptable: bool
    reasons: tuple[str, ...] = ()


class Behaviour(Protocol):
    """Decides what this side does next in a negotiation.

    Called inside the transaction of each state change (so it must not touch a database), and again, with ``waited``,
    when a ``Later`` has run out.
    """

    def next(
        self, negotiation: Negotiation, assessment: Assessment, *, waited: bool
    ) -> NegotiationCommand | Later | None:
        """Return the next command, when to ask again, or ``None`` to wait for the peer or an operator."""
        ...


class TransferBehaviour(Protocol):
    """Decides what this side does next in a transfer, and is told of every state that a transfer comes to.

    Called outside any transaction, after the commit, by the sender threads; at least once per state (a state that is
    left at once may be skipped), so it must be idempotent. It may use a database of its own.
    """

    def next(self, transfer: Transfer, agreement: AgreementRecord, *, waited: bool) -> TransferCommand | Later | None:
        """Return the next command, when to ask again, or ``None``."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerAnswer:
    """A peer's HTTP answer; header names are lower-case."""

    status: int
    body: bytes
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class PeerCalls(Protocol):
    """Calls to other participants, authenticated for ``audience``."""

    def call(
        self,
        method: str,
        url: str,
        *,
        audience: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> PeerAnswer:
        """Send a request and return the answer, whatever its status.

        Raises:
            PeerUnavailableError: no connection, no whole answer in time, more than ``max_bytes``, or no HTTP.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """A participant we know: ``dsp_url`` is the base of its DSP endpoints, without a trailing slash."""

    participant_id: str
    dsp_url: str


class PeerDirectory(Protocol):
    """The participants whose addresses are known from their membership credentials."""

    def find(self, participant_id: str) -> Peer | None:
        """Return the peer, or ``None`` when it is not known."""
        ...


class Doorbell(Protocol):
    """Rung after a commit; a lost ring costs time, never a message."""

    @property
    def lease(self) -> str | None:
        """The token under which fresh outbox rows may be leased at once to this process, or ``None``."""
        ...

    def row(self, row: OutboxRow) -> None:
        """Say that a leased row can be sent."""
        ...

    def act(self, kind: Kind, pid: str) -> None:
        """Say that a process is due for its behaviour."""
        ...

    def later(self, at: datetime) -> None:
        """Say that something will be due at ``at``: look then."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """Which processes or agreements: ``None`` means any. ``cursor`` is opaque."""

    state: str | None = None
    role: str | None = None
    counterparty: str | None = None
    dataset_id: str | None = None
    agreement_id: str | None = None
    cursor: str | None = None
    limit: int = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class CatalogQuery:
    """Which datasets: keyword and format match exactly, text is searched in title, description and keywords.

    ``after`` and ``before`` are dataset ids; the page lies strictly between.
    """

    keyword: str | None = None
    format: str | None = None
    text: str | None = None
    after: str | None = None
    before: str | None = None
    limit: int = 100


class UnitOfWork(Protocol):
    """One open transaction. Nothing in it has an effect until it commits."""

    def negotiation(self, pid: str, *, lock: bool = False) -> Negotiation | None:
        """Return a negotiation by our id, its row locked for this transaction if asked."""
        ...

    def transfer(self, pid: str, *, lock: bool = False) -> Transfer | None:
        """Return a transfer by our id, its row locked for this transaction if asked."""
        ...

    def by_peer_pid(self, kind: Kind, counterparty: str, peer_pid: str, role: str) -> Process | None:
        """Return the process that ``counterparty`` calls ``peer_pid`` and in which our role is ``role``."""
        ...

    def add(self, process: Process, *, act_at: datetime | None) -> None:
        """Insert a process; ``act_at`` is when its behaviour is due.

        Where another transaction was first, this one is run again at its end.
        """
        ...

    def save(self, process: Process, *, act_at: datetime | None) -> None:
        """Write a process that was locked in this transaction."""
        ...

    def learn_peer_pid(self, pid: str, peer_pid: str) -> None:
        """Note the peer's id of a process if none is known yet."""
        ...

    def take_due(self, kind: Kind, pid: str, *, now: datetime, until: datetime) -> tuple[Process, datetime] | None:
        """Lock a process whose behaviour is due and put it off to ``until``; returns it with when it was due."""
        ...

    def meet(self, kind: Kind, receipt: Receipt) -> tuple[Process | None, Receipt | None]:
        """Lock the process that a message is for and record the message, as :meth:`receive` does.

        Whoever then refuses the message raises, so that nothing stays.
        """
        ...

    def begin(self, receipt: Receipt) -> None:
        """Record the message that began a process added in this transaction."""
        ...

    def receive(self, receipt: Receipt) -> Receipt | None:
        """Record a message. Returns ``None`` when it is new, else the record of the same id that was there before."""
        ...

    def add_events(self, events: Sequence[Event]) -> None:
        """Append to a process's history."""
        ...

    def enqueue(self, row: OutboxRow, *, lease: str | None, lease_until: datetime) -> Callable[[], OutboxRow]:
        """Append to the outbox; leased at once to ``lease`` unless an earlier row of the process still waits.

        What is returned gives the row as it was appended, once the transaction is committed.
        """
        ...

    def drop_queued(self, pid: str) -> None:
        """Drop what is still queued for a process that has ended."""
        ...

    def finish(self, row: OutboxRow, *, at: datetime, answer_status: int) -> None:
        """Write that a message was taken; nothing where the lease was lost meanwhile."""
        ...

    def settle(
        self,
        row: OutboxRow,
        *,
        status: str,
        at: datetime,
        answer_status: int | None,
        answer: str | None,
        answer_code: str | None = None,
        due_at: datetime | None = None,
    ) -> bool:
        """Write the result of an attempt. Returns ``False`` when the lease was lost meanwhile (nothing written)."""
        ...

    def renew(self, row: OutboxRow, *, until: datetime) -> bool:
        """Hold a leased row for longer. Returns ``False`` when somebody else has it meanwhile."""
        ...

    def hold(self, audience: str, *, until: datetime, now: datetime) -> None:
        """Let what is queued for a peer, and in nobody's hands, fall due at ``until`` at the earliest."""
        ...

    def lease_next(self, pid: str, *, lease: str, now: datetime, until: datetime) -> Callable[[], OutboxRow | None]:
        """Lease the first queued row of a process if it is due and free; one that nobody has tried or put off is due.

        What is returned gives the row, or ``None``, once the transaction is committed.
        """
        ...

    def dataset(self, dataset_id: str) -> Dataset | None:
        """Return a dataset."""
        ...

    def put_dataset(self, dataset: Dataset, *, now: datetime) -> None:
        """Insert or replace a dataset and its offer."""
        ...

    def remove_dataset(self, dataset_id: str) -> bool:
        """Withdraw a dataset from the catalog; returns whether it was there."""
        ...

    def agreement(self, agreement_id: str) -> AgreementRecord | None:
        """Return a concluded agreement."""
        ...

    def add_agreement(self, record: AgreementRecord) -> None:
        """Insert a concluded agreement; it is never changed afterwards.

        An id that names another agreement already fails the transaction with a ConflictingRepeatError at its end.
        """
        ...

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the commit."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A page of processes or agreements with the cursors of the next one and the one before."""

    items: tuple[Any, ...]
    cursor: str | None = None
    previous: str | None = None


class Store(Protocol):
    """The contracts part of a participant's database."""

    def run(self, name: str, work: Callable[[UnitOfWork], T]) -> T:
        """Run ``work`` in one named transaction, again on a serialization failure."""
        ...

    def negotiation(self, pid: str) -> Negotiation | None:
        """Read a negotiation."""
        ...

    def transfer(self, pid: str) -> Transfer | None:
        """Read a transfer."""
        ...

    def agreement(self, agreement_id: str) -> AgreementRecord | None:
        """Read a concluded agreement."""
        ...

    def dataset(self, dataset_id: str) -> Dataset | None:
        """Read a dataset."""
        ...

    def processes(self, kind: Kind, query: Query) -> Page:
        """Read a page of negotiations or transfers, newest first."""
        ...

    def agreements(self, query: Query) -> Page:
        """Read a page of agreements, newest first."""
        ...

    def datasets(self, query: CatalogQuery) -> Sequence[Dataset]:
        """Read up to ``query.limit`` datasets in id order (also when paging backwards)."""
        ...

    def events(self, pid: str, *, after: int = 0) -> Sequence[Event]:
        """Read a process's history after a sequence number."""
        ...

    def deliveries(self, pid: str) -> Sequence[OutboxRow]:
        """Read a process's outbox rows, oldest first."""
        ...

    def undelivered(self, pids: Sequence[str]) -> Mapping[str, Sequence[OutboxRow]]:
        """Read, of each of these processes, the outbox rows that wait or were given up, oldest first."""
        ...

    def lease_due(
        self, *, lease: str, now: datetime, until: datetime, limit: int, skip: frozenset[str] = frozenset()
    ) -> Sequence[OutboxRow]:
        """Lease queued rows that are due and free, at most one per process, oldest first, none for peers in ``skip``."""
        ...

    def release(self, holder: str) -> None:
        """Free the queued rows whose lease begins with ``holder``: whoever bore that name has died."""
        ...

    def hasten(self, *, now: datetime, until: datetime) -> None:
        """Make due at ``now`` whatever behaviour is due by ``until``: whoever had taken it has died."""
        ...

    def due_behaviours(self, *, now: datetime, limit: int) -> Sequence[tuple[Kind, str]]:
        """Read which processes are due for their behaviour."""
        ...


class Participant(Protocol):
    """Who we are on the wire."""

    @property
    def id(self) -> str:
        """Our participant id (a DID)."""
        ...

    @property
    def dsp_url(self) -> str:
        """The base URL of our DSP endpoints, without a trailing slash: our callback address."""
        ...

    @property
    def roles(self) -> Sequence[str]:
        """Our roles in the data space, as our membership says."""
        ...


CallerLookup: TypeAlias = Callable[[str | None], Caller]
