"""The learning room's store on SQLite and PostgreSQL: typed records, and the work that is due."""

import dataclasses
import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

import pydantic
from sqlalchemy import Delete, Select, Table, Update, bindparam, case, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from connector.storage import tables_learning as tables
from connector.storage.database import Database, Transaction
from learning.jobs import Job, JobLine, Member, OwnPlan, Participation, ReceivedPlan
from learning.rounds import (
    ChildShare,
    ClearUpload,
    GroupAttempt,
    Notice,
    Round,
    SeatParcel,
    SeatRound,
    SeatShare,
    SeatUpload,
    SketchAnswers,
    Step,
)

T = TypeVar("T")

_TABLES: dict[type, Table] = {
    OwnPlan: tables.own_plans,
    Job: tables.jobs,
    Member: tables.members,
    JobLine: tables.job_lines,
    Round: tables.rounds,
    Notice: tables.notices,
    GroupAttempt: tables.group_attempts,
    SeatShare: tables.seat_shares,
    ClearUpload: tables.clear_uploads,
    ReceivedPlan: tables.received_plans,
    Participation: tables.participations,
    Step: tables.steps,
    SeatRound: tables.seat_rounds,
    SeatUpload: tables.seat_uploads,
    SeatParcel: tables.seat_parcels,
    ChildShare: tables.child_shares,
    SketchAnswers: tables.sketch_answers,
}


_LOST_AFTER_SECONDS = 2.0


_ADAPTERS: dict[type, pydantic.TypeAdapter[Any]] = {}


def _adapter(kind: type) -> pydantic.TypeAdapter[Any]:
    # Built when the first record is read or written: an API process is ready without them.
    found = _ADAPTERS.get(kind)
    if found is None:
        found = _ADAPTERS[kind] = pydantic.TypeAdapter(kind)
    return found


class SqlRecords:
    """Records inside one open transaction (``learning.ports.Records``)."""

    def __init__(self, transaction: Transaction, ring: Callable[[str, str], None], now: datetime) -> None:
        """Read and write through ``transaction``; ``ring(task, key)`` is called after the commit for due work."""
        self._transaction = transaction
        self._connection = transaction.connection
        self._ring = ring
        self._now = now.timestamp()

    def add(self, value: object) -> bool:
        """Insert a record; return False and change nothing when its key exists."""
        table = _TABLES[type(value)]
        # Drivers disagree about the row count of an insert that did nothing; a returned key is the same on both.
        return self._connection.execute(_adding(table, self._connection.dialect.name), _row(value)).first() is not None

    def get(self, kind: type[T], *key: str | int) -> T | None:
        """Return the record with this key."""
        return self._one(kind, key, lock=False)

    def lock(self, kind: type[T], *key: str | int) -> T | None:
        """Return the record with this key and hold it until the transaction ends."""
        return self._one(kind, key, lock=True)

    def save(self, value: object) -> None:
        """Write a record that exists."""
        table = _TABLES[type(value)]
        self._connection.execute(_saving(table), {_PARAMETER + name: part for name, part in _row(value).items()})

    def delete(self, value: object) -> None:
        """Remove a record; a missing one is no error."""
        table = _TABLES[type(value)]
        row = _row(value)
        key = {_PARAMETER + column.name: row[column.name] for column in table.primary_key}
        self._connection.execute(_deleting(table), key)

    def select(self, kind: type[T], *prefix: str | int) -> list[T]:
        """Return the records whose key begins with ``prefix``, in key order."""
        table = _TABLES[kind]
        found = self._connection.execute(_selecting(table, len(prefix), ordered=True), _key(table, prefix))
        return [cast("T", _adapter(kind).validate_python(value)) for (value,) in found]

    def enqueue(self, task: str, key: str, due_at: datetime) -> None:
        """Make a piece of work due; the same task and key twice is one piece, at the earlier time."""
        # One statement: two transactions that name the same work at once must not both insert it.
        given, soon = due_at.timestamp(), self._now + _LOST_AFTER_SECONDS
        # Work that is due now is rung for after the commit; the sweep only repeats a doorbell that got lost.
        values = {"task": task, "key": key, "due_at": given, "publish_at": given if given > self._now else soon}
        times = {_PARAMETER + "given": given, _PARAMETER + "now": self._now, _PARAMETER + "soon": soon}
        statement = _enqueuing(self._connection.dialect.name)
        if self._connection.execute(statement, values | times).scalar_one() <= self._now:
            self._transaction.on_commit(lambda: self._ring(task, key))

    def _one(self, kind: type[T], key: tuple[str | int, ...], *, lock: bool) -> T | None:
        table = _TABLES[kind]
        value = self._connection.execute(_selecting(table, len(key), lock=lock), _key(table, key)).scalar()
        return None if value is None else cast("T", _adapter(kind).validate_python(value))


class SqlLearningStore:
    """``learning.ports.Store`` over a database; ``ring`` is the doorbell for work that became due."""

    def __init__(self, database: Database, ring: Callable[[str, str], None], now: Callable[[], datetime]) -> None:
        """Run transactions on ``database`` and ring after their commits."""
        self._database = database
        self._ring = ring
        self._now = now

    def run(self, name: str, work: Callable[[SqlRecords], T]) -> T:
        """Run ``work`` in one named transaction; it may run more than once."""
        return self._database.run(name, lambda transaction: work(SqlRecords(transaction, self._ring, self._now())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lease:
    """A piece of work that this process holds for a while."""

    task: str
    key: str
    token: str
    version: int
    tries: int


class WorkBook:
    """Leases on due work: token, expiry, attempt count. A lost or doubled doorbell is harmless."""

    def __init__(self, database: Database, *, lease_seconds: float = 30.0) -> None:
        """Keep leases of ``lease_seconds`` that a running task renews."""
        self._database = database
        self._lease_seconds = lease_seconds

    def take(self, task: str, key: str, owner: str, token: str, now: datetime) -> Lease | None:
        """Lease one piece of work when it is due and nobody holds it."""
        work, moment = tables.work, now.timestamp()

        def run(transaction: Transaction) -> Lease | None:
            statement = select(work).where(work.c.task == task, work.c.key == key).with_for_update()
            row = transaction.connection.execute(statement).first()
            if row is None or row.due_at > moment or (row.lease is not None and row.lease_until > moment):
                return None
            transaction.connection.execute(
                update(work)
                .where(work.c.task == task, work.c.key == key)
                .values(
                    lease=token,
                    lease_owner=owner,
                    lease_until=moment + self._lease_seconds,
                    publish_at=moment + self._lease_seconds,
                    published=0,
                    tries=row.tries + 1,
                )
            )
            return Lease(task=task, key=key, token=token, version=row.version, tries=row.tries + 1)

        return self._database.run("work.take", run)

    def renew(self, leases: list[Lease], now: datetime) -> None:
        """Hold leases for longer."""
        work, until = tables.work, now.timestamp() + self._lease_seconds
        tokens = [lease.token for lease in leases]
        statement = update(work).where(work.c.lease.in_(tokens)).values(lease_until=until, publish_at=until)
        self._database.run("work.renew", lambda transaction: transaction.connection.execute(statement))

    def done(self, lease: Lease) -> bool:
        """Strike off finished work; return True when it was made due again meanwhile and must run once more."""
        work = tables.work
        held = [work.c.task == lease.task, work.c.key == lease.key, work.c.lease == lease.token]

        def run(transaction: Transaction) -> bool:
            gone = transaction.connection.execute(delete(work).where(*held, work.c.version == lease.version))
            if gone.rowcount:
                return False
            again = transaction.connection.execute(
                update(work).where(*held).values(lease=None, lease_until=None, publish_at=work.c.due_at, tries=0)
            )
            return bool(again.rowcount)

        return self._database.run("work.done", run)

    def later(self, lease: Lease, due_at: datetime, error: str | None, *, fresh: bool = False) -> bool:
        """Give work back until ``due_at``; ``fresh`` forgets its tries (it waited, it did not fail).

        Returns:
            whether it was made due again meanwhile and must not wait until then.
        """
        work, due = tables.work, due_at.timestamp()

        def run(transaction: Transaction) -> bool:
            held = [work.c.task == lease.task, work.c.key == lease.key, work.c.lease == lease.token]
            version = transaction.connection.execute(select(work.c.version).where(*held).with_for_update()).scalar()
            values: dict[str, Any] = {"lease": None, "lease_until": None, "error": error, "published": 0}
            if version == lease.version:
                values |= {"due_at": due, "publish_at": due}
            else:
                values |= {"publish_at": work.c.due_at}
            if fresh:
                values["tries"] = 0
            transaction.connection.execute(update(work).where(*held).values(values))
            return version is not None and version != lease.version

        return self._database.run("work.later", run)

    def release_owner(self, owner: str) -> int:
        """Free what a dead process of the same name held, so that a restart need not wait for leases to expire."""
        work = tables.work
        statement = (
            update(work)
            .where(work.c.lease_owner == owner, work.c.lease.is_not(None))
            .values(lease=None, lease_until=None, publish_at=0.0)
        )
        return self._database.run(
            "work.release_owner", lambda transaction: transaction.connection.execute(statement).rowcount
        )

    def sweep(self, now: datetime, again_seconds: float, limit: int = 100) -> list[tuple[str, str]]:
        """Return work whose doorbell is due (first time, lost, or an expired lease) and note the next time to ring."""
        work, moment = tables.work, now.timestamp()
        with self._database.reading() as connection:
            found = list(connection.execute(_due_work(), {"moment": moment, "most": limit}))
        if not found:
            return []

        def run(transaction: Transaction) -> None:
            for task, key, published in found:
                wait = again_seconds * 2 ** min(published, 4)
                transaction.connection.execute(
                    update(work)
                    .where(work.c.task == task, work.c.key == key, work.c.publish_at <= moment)
                    .values(publish_at=moment + wait, published=published + 1)
                )

        self._database.run("work.sweep", run)
        return [(task, key) for task, key, _ in found]


def _row(value: object) -> dict[str, Any]:
    table = _TABLES[type(value)]
    encoded = _adapter(type(value)).dump_python(value, mode="json")
    row = {column.name: encoded[column.name] for column in table.primary_key}
    return row | {"state": encoded.get("state"), "value": encoded}


# Statements are built once: building one costs as much as running it.
_PARAMETER = "given_"


def _key(table: Table, key: tuple[str | int, ...]) -> dict[str, str | int]:
    return {_PARAMETER + column.name: part for column, part in zip(table.primary_key, key, strict=False)}


def _where(table: Table, depth: int) -> list[ColumnElement[bool]]:
    return [column == bindparam(_PARAMETER + column.name) for column in list(table.primary_key)[:depth]]


def _insert(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@functools.cache
def _due_work() -> Select[Any]:
    work = tables.work.c
    due = select(work.task, work.key, work.published).where(work.publish_at <= bindparam("moment"))
    return due.order_by(work.publish_at).limit(bindparam("most"))


@functools.cache
def _selecting(table: Table, depth: int, *, lock: bool = False, ordered: bool = False) -> Select[tuple[Any]]:
    statement = select(table.c.value).where(*_where(table, depth))
    if ordered:
        statement = statement.order_by(*table.primary_key)
    return statement.with_for_update() if lock else statement


@functools.cache
def _adding(table: Table, dialect: str) -> Any:
    return _insert(table, dialect).on_conflict_do_nothing().returning(*table.primary_key)


@functools.cache
def _saving(table: Table) -> Update:
    changed = {name: bindparam(_PARAMETER + name, type_=table.c[name].type) for name in ("state", "value")}
    return update(table).where(*_where(table, len(table.primary_key))).values(changed)


@functools.cache
def _deleting(table: Table) -> Delete:
    return delete(table).where(*_where(table, len(table.primary_key)))


@functools.cache
def _enqueuing(dialect: str) -> Any:
    work = tables.work
    given, now, soon = (bindparam(_PARAMETER + name, type_=work.c.due_at.type) for name in ("given", "now", "soon"))
    earlier = case((work.c.due_at < given, work.c.due_at), else_=given)
    return (
        _insert(work, dialect)
        .values({name: bindparam(name) for name in ("task", "key", "due_at", "publish_at")})
        .on_conflict_do_update(
            index_elements=[work.c.task, work.c.key],
            set_={
                "due_at": earlier,
                "publish_at": case((earlier > now, earlier), else_=soon),
                "published": 0,
                "version": work.c.version + 1,
            },
        )
        .returning(work.c.due_at)
    )
