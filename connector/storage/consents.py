"""Notices, consents and uses in the database: the adapter of ``policies.ports.ConsentStore``."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from connector.storage.consent_rows import event_row, event_value, record_row, record_value
from connector.storage.consent_uses import read_uses, write_use
from connector.storage.database import Database, Transaction
from connector.storage.external_consents import unlink_answered
from connector.storage.tables_consents import (
    consent_events,
    consent_notices,
    consent_purposes,
    consent_records,
    consent_uses,
)
from connector.storage.webhooks import queue_events
from policies.codec import notice_document, parse_notice
from policies.consent import ACTIVE, ConsentEvent, ConsentRecord
from policies.expressions import stamp
from policies.notices import Notice
from policies.ports import ConsentedTerms, ConsentUnit, UseCost, UseSpan

T = TypeVar("T")

_ACTIVE = sorted(state.value for state in ACTIVE)
# SQLite takes 32,766 parameters in a statement; keys have three parts.
_BATCH = 500


class SqlConsentStore:
    """Consents on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Keep everything in ``database``, migrated beforehand."""
        self._database = database
        self._dialect = database.engine.dialect.name

    def run(self, name: str, work: Callable[[ConsentUnit], T]) -> T:
        """Run ``work`` in a transaction; two first answers of one person at once are run one after the other."""

        def inside(transaction: Transaction) -> T:
            return work(SqlConsentUnit(transaction, self._dialect))

        try:
            return self._database.run(name, inside)
        except IntegrityError:
            # Both saw no record and inserted one; the second now sees the first's.
            return self._database.run(name, inside)

    def consenting(self, dataset_id: str, purpose: str, now: datetime) -> frozenset[str]:
        """Return the subjects whose consent is active, unexpired and to what the current notice says."""
        # One text instead of a row a person: the gate asks this each round for up to 100,000 people.
        joined = func.aggregate_strings(consent_records.c.subject_ref, ",")
        statement = select(joined).where(_counts(dataset_id, purpose, now))
        with self._database.reading() as connection:
            text = connection.execute(statement).scalar_one()
        return frozenset(text.split(",")) if text else frozenset()

    def terms(self, dataset_id: str, purpose: str) -> ConsentedTerms:
        """Return what the current notices say about a purpose."""
        wanted, notices = consent_purposes.c, consent_notices.c
        statement = select(notices.document).where(
            wanted.dataset_id == dataset_id,
            wanted.purpose == purpose,
            notices.notice_id == wanted.notice_id,
            notices.is_current,
        )
        with self._database.reading() as connection:
            documents = list(connection.execute(statement).scalars())
        said = [item for document in documents for item in document["purposes"] if item["purpose"] == purpose]
        return ConsentedTerms(
            algorithm_classes=frozenset(item["algorithm_class"] for item in said),
            data_categories=frozenset(name for item in said for name in item["data_categories"]),
        )

    def count(self, dataset_id: str, purpose: str, now: datetime) -> int:
        """Return how many subjects consent."""
        statement = select(func.count()).select_from(consent_records).where(_counts(dataset_id, purpose, now))
        with self._database.reading() as connection:
            return int(connection.execute(statement).scalar_one())

    def records_of(self, subject_refs: Sequence[str]) -> list[ConsentRecord]:
        """Return the records of these subjects, newest change first."""
        table = consent_records
        found: list[ConsentRecord] = []
        with self._database.reading() as connection:
            for part in _batches(subject_refs):
                rows = connection.execute(select(table).where(table.c.subject_ref.in_(part)))
                found += [record_value(row._mapping) for row in rows]  # noqa: SLF001 - SQLAlchemy's public name for it
        return sorted(found, key=lambda record: (record.updated_at, record.record_id), reverse=True)

    def events_of(self, record_id: str) -> list[ConsentEvent]:
        """Return a record's events in order."""
        table = consent_events
        statement = select(table).where(table.c.record_id == record_id).order_by(table.c.revision)
        with self._database.reading() as connection:
            return [event_value(row) for row in connection.execute(statement).mappings()]

    def events_of_many(self, record_ids: Sequence[str]) -> dict[str, list[ConsentEvent]]:
        """Return the events of many records in order, by record."""
        table = consent_events
        found: dict[str, list[ConsentEvent]] = {record_id: [] for record_id in record_ids}
        with self._database.reading() as connection:
            for part in _batches(record_ids):
                statement = (
                    select(table).where(table.c.record_id.in_(part)).order_by(table.c.record_id, table.c.revision)
                )
                for row in connection.execute(statement).mappings():
                    found[row["record_id"]].append(event_value(row))
        return found

    def records_after(self, record_id: str, limit: int) -> list[ConsentRecord]:
        """Return records in order of their ids, those after ``record_id``."""
        table = consent_records
        statement = select(table).where(table.c.record_id > record_id).order_by(table.c.record_id).limit(limit)
        with self._database.reading() as connection:
            return [record_value(row) for row in connection.execute(statement).mappings()]

    def uses_of(self, subject_refs: Sequence[str]) -> list[UseSpan]:
        """Return in which rounds of which jobs these subjects' rows were read."""
        with self._database.reading() as connection:
            return [use for part in _batches(subject_refs) for use in read_uses(connection, part)]

    def last_cohort(self, job_id: str, dataset_id: str, purpose: str) -> int:
        """Return how many subjects' rows a job's last round read; 0 where it read none."""
        job = consent_uses.c
        wanted = and_(job.job_id == job_id, job.dataset_id == dataset_id, job.purpose == purpose)
        with self._database.reading() as connection:
            members = connection.execute(select(job.members).where(wanted)).scalar_one_or_none()
        return int(members.partition(":")[0]) if members else 0

    def seconds_used(self, agreement_id: str) -> float:
        """Return the training seconds that rounds under an agreement have taken so far."""
        return self._total(consent_uses.c.seconds, consent_uses.c.agreement_id == agreement_id)

    def epsilon_spent(self, dataset_id: str) -> float:
        """Return what all noisy rounds over a dataset have spent; 0 where there was none."""
        return self._total(consent_uses.c.epsilon, consent_uses.c.dataset_id == dataset_id)

    def _total(self, column: Column[float], wanted: ColumnElement[bool]) -> float:
        with self._database.reading() as connection:
            return float(connection.execute(select(func.coalesce(func.sum(column), 0.0)).where(wanted)).scalar_one())

    def due(self, now: datetime, limit: int) -> list[ConsentRecord]:
        """Return active records whose time has run out."""
        table = consent_records
        overdue = and_(table.c.state.in_(_ACTIVE), table.c.expires_at <= stamp(now))
        statement = select(table).where(overdue).order_by(table.c.expires_at).limit(limit)
        with self._database.reading() as connection:
            return [record_value(row) for row in connection.execute(statement).mappings()]


class SqlConsentUnit:
    """One transaction of the store."""

    def __init__(self, transaction: Transaction, dialect: str) -> None:
        """Work on ``transaction``; ``dialect`` is ``sqlite`` or ``postgresql``."""
        self._transaction = transaction
        self._dialect = dialect

    @property
    def _connection(self) -> Connection:
        return self._transaction.connection

    def notice(self, notice_id: str, version: int | None = None) -> Notice | None:
        """Return a version of a notice, the current one by default."""
        table = consent_notices
        which = table.c.is_current if version is None else table.c.version == version
        document = self._connection.execute(
            select(table.c.document).where(table.c.notice_id == notice_id, which)
        ).scalar_one_or_none()
        return None if document is None else parse_notice(document)

    def notices(self) -> list[Notice]:
        """Return the current version of every notice."""
        table = consent_notices
        rows = self._connection.execute(
            select(table.c.document).where(table.c.is_current).order_by(table.c.notice_id)
        ).scalars()
        return [parse_notice(document) for document in rows]

    def add_notice(self, notice: Notice) -> None:
        """Store a version, make it the current one, and say which material counts from now on."""
        table, purposes = consent_notices, consent_purposes
        self._connection.execute(update(table).where(table.c.notice_id == notice.notice_id).values(is_current=False))
        self._connection.execute(
            table.insert().values(
                notice_id=notice.notice_id,
                version=notice.version,
                dataset_id=notice.dataset_id,
                is_current=True,
                published_at=stamp(notice.published_at),
                document=notice_document(notice),
            )
        )
        self._connection.execute(delete(purposes).where(purposes.c.notice_id == notice.notice_id))
        rows = [
            {
                "dataset_id": notice.dataset_id,
                "purpose": item.purpose,
                "notice_id": notice.notice_id,
                "material": notice.material(item.purpose),
            }
            for item in notice.purposes
        ]
        self._connection.execute(purposes.insert(), rows)

    def record(self, record_id: str) -> ConsentRecord | None:
        """Return a record, locked."""
        statement = select(consent_records).where(consent_records.c.record_id == record_id)
        row = self._connection.execute(self._locked(statement)).mappings().first()
        return None if row is None else record_value(row)

    def records_for(self, keys: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], ConsentRecord]:
        """Return the records of these keys, locked."""
        table = consent_records
        key = tuple_(table.c.subject_ref, table.c.dataset_id, table.c.purpose)
        found: dict[tuple[str, str, str], ConsentRecord] = {}
        for part in _batches(sorted(set(keys))):
            # Always in key order, so that two imports wait for each other instead of dead-locking.
            statement = select(table).where(key.in_(part)).order_by(table.c.subject_ref)
            for row in self._connection.execute(self._locked(statement)).mappings():
                record = record_value(row)
                found[record.subject_ref, record.dataset_id, record.purpose] = record
        return found

    def known_events(self, event_ids: Sequence[str]) -> dict[str, ConsentEvent]:
        """Return the events that already carry one of these ids."""
        table = consent_events
        found: dict[str, ConsentEvent] = {}
        for part in _batches(sorted(set(event_ids))):
            for row in self._connection.execute(select(table).where(table.c.event_id.in_(part))).mappings():
                event = event_value(row)
                found[event.event_id] = event
        return found

    def save(self, records: Sequence[ConsentRecord], events: Sequence[ConsentEvent]) -> None:
        """Insert or replace records and append their events; events are never changed or removed."""
        insert = postgresql.insert if self._dialect == "postgresql" else sqlite.insert
        rows = [record_row(record) for record in records]
        wanted = insert(consent_records).values({name: bindparam(name) for name in rows[0]})
        changed = {name: wanted.excluded[name] for name in rows[0] if name != "record_id"}
        statement = wanted.on_conflict_do_update(index_elements=["record_id"], set_=changed)
        self._connection.execute(statement, rows)
        self._connection.execute(consent_events.insert(), [event_row(event) for event in events])
        unlink_answered(self._connection, events)
        queue_events(self._connection, events, datetime.fromisoformat(events[-1].payload["recorded_at"]))

    def record_use(self, use: UseSpan, subjects: frozenset[str], cost: UseCost | None = None) -> None:
        """Note that round ``use.last_round`` read the rows of exactly these subjects, and what that cost."""
        write_use(self._connection, use, subjects, cost, locked=self._locked)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the commit."""
        self._transaction.on_commit(callback)

    def _locked(self, statement: Select[Any]) -> Select[Any]:
        # A writing transaction on SQLite holds the only write lock already.
        return statement.with_for_update() if self._dialect == "postgresql" else statement


def _counts(dataset_id: str, purpose: str, now: datetime) -> ColumnElement[bool]:
    record, wanted = consent_records.c, consent_purposes.c
    current = select(wanted.material).where(wanted.dataset_id == dataset_id, wanted.purpose == purpose)
    return and_(
        record.dataset_id == dataset_id,
        record.purpose == purpose,
        record.state.in_(_ACTIVE),
        record.expires_at > stamp(now),
        record.material.in_(current),
    )


def _batches(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[start : start + _BATCH] for start in range(0, len(values), _BATCH)]
