"""What this room needs from the outside: a store for notices, consents and uses."""

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from policies.consent import ConsentEvent, ConsentRecord
from policies.notices import Notice

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseSpan:
    """Rounds of a job in which a subject's rows were read, both ends included."""

    job_id: str
    dataset_id: str
    purpose: str
    first_round: int
    last_round: int
    noise: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseCost:
    """What one round of training has cost: for the agreement's metered time and the dataset's privacy ledger.

    Attributes:
        agreement_id: under which it was done.
        seconds: of training beside the data.
        epsilon: of differential privacy; 0 for a round without noise, which has no bound to add up.
    """

    agreement_id: str
    seconds: float = 0.0
    epsilon: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentedTerms:
    """What the notices in force say about one purpose of a dataset: what everybody who counts has agreed to.

    Both are empty where no notice names the purpose.
    """

    algorithm_classes: frozenset[str] = frozenset()
    data_categories: frozenset[str] = frozenset()


class ConsentUnit(Protocol):
    """What one transaction can do. Rows read here are locked until the commit where the database can."""

    def notice(self, notice_id: str, version: int | None = None) -> Notice | None:
        """Return a version of a notice, the newest by default."""
        ...

    def notices(self) -> list[Notice]:
        """Return the newest version of every notice, by id."""
        ...

    def add_notice(self, notice: Notice) -> None:
        """Store a version and make it its notice's current one."""
        ...

    def record(self, record_id: str) -> ConsentRecord | None:
        """Return a record by its id."""
        ...

    def records_for(self, keys: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], ConsentRecord]:
        """Return the records of (subject_ref, dataset_id, purpose) keys, those that exist."""
        ...

    def known_events(self, event_ids: Sequence[str]) -> dict[str, ConsentEvent]:
        """Return the events that already carry one of these expression ids."""
        ...

    def save(self, records: Sequence[ConsentRecord], events: Sequence[ConsentEvent]) -> None:
        """Insert or replace records and append their events (one per record)."""
        ...

    def record_use(self, use: UseSpan, subjects: frozenset[str], cost: UseCost | None = None) -> None:
        """Note that ``use.last_round`` of a job read the rows of exactly these subjects; a repeat changes nothing.

        Its cost is added at each note: a second attempt trains again, and may show another noisy sum.
        """
        ...

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the commit, never on a rollback."""
        ...


class ConsentStore(Protocol):
    """The store; every query names the dataset or the subject it is for."""

    def run(self, name: str, work: Callable[[ConsentUnit], T]) -> T:
        """Run ``work`` in a transaction and commit; it may run more than once."""
        ...

    def consenting(self, dataset_id: str, purpose: str, now: datetime) -> frozenset[str]:
        """Return the subjects with an active, unexpired consent to what the current notice says, in one query."""
        ...

    def terms(self, dataset_id: str, purpose: str) -> ConsentedTerms:
        """Return what the current notices say about a purpose."""
        ...

    def count(self, dataset_id: str, purpose: str, now: datetime) -> int:
        """Return how many subjects :meth:`consenting` would."""
        ...

    def records_of(self, subject_refs: Sequence[str]) -> list[ConsentRecord]:
        """Return every record of these subjects, newest change first."""
        ...

    def events_of(self, record_id: str) -> list[ConsentEvent]:
        """Return a record's events in order."""
        ...

    def events_of_many(self, record_ids: Sequence[str]) -> dict[str, list[ConsentEvent]]:
        """Return the events of many records in order, by record."""
        ...

    def records_after(self, record_id: str, limit: int) -> list[ConsentRecord]:
        """Return records in order of their ids, those after ``record_id``."""
        ...

    def uses_of(self, subject_refs: Sequence[str]) -> list[UseSpan]:
        """Return the uses of these subjects' rows, by job and first round."""
        ...

    def last_cohort(self, job_id: str, dataset_id: str, purpose: str) -> int:
        """Return how many subjects' rows a job's last round read; 0 where it read none."""
        ...

    def seconds_used(self, agreement_id: str) -> float:
        """Return the training seconds that rounds under an agreement have taken so far."""
        ...

    def epsilon_spent(self, dataset_id: str) -> float:
        """Return what all noisy rounds over a dataset have spent; 0 where there was none."""
        ...

    def due(self, now: datetime, limit: int) -> list[ConsentRecord]:
        """Return active records whose time has run out, at most ``limit``."""
        ...
