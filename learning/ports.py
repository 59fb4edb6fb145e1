"""What this room needs from the process around it."""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Records(Protocol):
    """Typed rows inside one transaction. A record's key is fixed by its type (job, round, attempt, participant...)."""

    def add(self, value: object) -> bool:
        """Insert a record; return False and change nothing when its key exists."""
        ...

    def get(self, kind: type[T], *key: str | int) -> T | None:
        """Return the record with this key."""
        ...

    def lock(self, kind: type[T], *key: str | int) -> T | None:
        """Return the record with this key and hold it until the transaction ends."""
        ...

    def save(self, value: object) -> None:
        """Write a record that exists."""
        ...

    def delete(self, value: object) -> None:
        """Remove a record; a missing one is no error."""
        ...

    def select(self, kind: type[T], *prefix: str | int) -> list[T]:
        """Return the records whose key begins with ``prefix``, in key order."""
        ...

    def enqueue(self, task: str, key: str, due_at: datetime) -> None:
        """Make a piece of work due; the same task and key twice is one piece, at the earlier time."""
        ...


class Store(Protocol):
    """Where records live."""

    def run(self, name: str, work: Callable[[Records], T]) -> T:
        """Run ``work`` in one named transaction; it may run more than once."""
        ...


class Blobs(Protocol):
    """Weights and documents by their SHA-256 (hex), vectors by what signed documents name them by."""

    def put(self, data: bytes | bytearray | memoryview, digest: str | None = None) -> str:
        """Store bytes and return their SHA-256, or ``digest``, which the caller has just made of them itself."""
        ...

    def get(self, digest: str) -> bytes:
        """Return the bytes of a digest; raises ``UnknownError`` when there are none."""
        ...

    def put_claimed(self, data: bytes | bytearray | memoryview, digest: str) -> str:
        """Store bytes that are said to have ``digest``, apart from those that have it; return the name to delete."""
        ...

    def get_claimed(self, digest: str) -> bytes:
        """Return bytes that were stored so; raises ``UnknownError`` when there are none or the claim was wrong."""
        ...

    def delete(self, digest: str) -> None:
        """Forget a blob; a missing one is no error."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
    """A peer's answer to one call."""

    status: int
    body: Mapping[str, Any]


class Peers(Protocol):
    """The learning API of other participants."""

    def call(
        self,
        participant_id: str,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Call ``{address}/learning{path}``; raises ``PeerError`` when no usable answer comes."""
        ...

    def name(self, participant_id: str) -> str:
        """Return a participant's name for people."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgreementTerms:
    """What this room needs to know of an agreement that is in force."""

    agreement_id: str
    provider: str
    consumer: str
    dataset_id: str
    purpose: str | None
    cohort_floor: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferView:
    """A DSP transfer process as the learning side sees it."""

    transfer_pid: str
    state: str
    endpoint: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    reason: str | None = None


class Contracts(Protocol):
    """Agreements and transfer processes (adapter over the contracts room)."""

    def agreement(self, agreement_id: str) -> AgreementTerms | None:
        """Return an agreement that is finalized and not terminated."""
        ...

    def request_transfer(self, agreement_id: str) -> str:
        """Start a transfer process with format FederatedTraining and return our pid for it."""
        ...

    def transfer(self, transfer_pid: str) -> TransferView | None:
        """Return a transfer process by our pid."""
        ...

    def complete_transfer(self, transfer_pid: str) -> None:
        """Complete a transfer process that is still running."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateAnswer:
    """May this participation go on now, with whose rows, and what differential privacy (epsilon) does that spend?"""

    allowed: bool
    reasons: tuple[str, ...] = ()
    subjects: frozenset[str] = frozenset()
    epsilon: float = 0.0


class Gate(Protocol):
    """Contract, policy and consent, asked anew each time."""

    def floor_met(self, agreement_id: str, floor: int, purpose: str) -> bool:
        """Say whether enough learners consent; the number itself is not given."""
        ...

    def check(
        self, agreement_id: str, purpose: str, algorithm_class: str, floor: int, *, job_id: str, round_number: int
    ) -> GateAnswer:
        """Decide about one round, and log the decision under job and round."""
        ...

    def release(
        self,
        agreement_id: str,
        purpose: str,
        algorithm_class: str,
        subjects: int | None,
        *,
        job_id: str,
        round_number: int,
    ) -> GateAnswer:
        """Decide whether the model may leave the job, which ``subjects`` of ours took part in, and log the decision.

        None: as many as were in the job's last round here, by our own note.
        """
        ...

    def used(
        self,
        agreement_id: str,
        job_id: str,
        round_number: int,
        subjects: frozenset[str],
        *,
        seconds: float,
        epsilon: float,
    ) -> None:
        """Note whose rows a round read, for those learners' history of uses, its training time, and what it spent."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The rows of the consenting subjects, as arrays in one file that only this participant can read.

    ``learners`` are their pseudonyms, in the order that the arrays number them. They never leave this participant.
    """

    path: Path
    rows: int
    subjects: int
    train_rows: int
    learners: tuple[str, ...] = dataclasses.field(default=(), repr=False)


class Snapshots(Protocol):
    """Sources of this participant."""

    def prepare(self, dataset_id: str, job_id: str, subjects: frozenset[str]) -> Snapshot:
        """Return the snapshot of a dataset for these subjects; raises ``StepFailedError``."""
        ...

    def facts(self, dataset_id: str) -> Mapping[str, Any]:
        """Return the published column facts of a dataset (features digest, shape)."""
        ...

    def forget(self, job_id: str) -> None:
        """Delete every snapshot made for a job."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SandboxOutput:
    """What came out of the sandbox, not yet looked at, and what it cost (seconds, bytes)."""

    data: bytes = dataclasses.field(repr=False)
    cost: Mapping[str, float]


class Trainer(Protocol):
    """Runs one step in the sandbox."""

    def run(self, step: Mapping[str, Any], weights: bytes, snapshot: Path) -> SandboxOutput:
        """Run the step of a ``step.json`` object; raises ``StepFailedError`` with what the sandbox saw."""
        ...
