"""Duties and how agreements stand, in SQL."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from connector.storage.database import Database, Transaction
from connector.storage.tables_contracts import agreements
from connector.storage.tables_duties import agreement_standings, duties
from policies.duties import Begins, Duty, begun, fulfil
from policies.errors import UnknownRecordError
from policies.expressions import stamp

CANCELLED = "cancelled"
IN_FORCE = "in-force"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """What has become of an agreement.

    Attributes:
        cancelled: whether a party has ended it; that cannot be taken back.
        reason: why, in a sentence for the other party.
        overdue: its duties that are overdue, as sentences.
    """

    cancelled: bool = False
    reason: str = ""
    overdue: tuple[str, ...] = ()

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why nothing may be done under the agreement now; empty when it is in force."""
        if self.cancelled:
            return (f"agreement: it was ended: {self.reason}",)
        return tuple(f"duty: not fulfilled in time: {text}" for text in self.overdue)


class SqlDuties:
    """Duties and standings on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Keep them in ``database``, migrated beforehand."""
        self._database = database
        build = postgresql.insert if database.engine.dialect.name == "postgresql" else sqlite.insert
        self._insert = build

    def without_duties(self, limit: int = 100) -> list[str]:
        """Return agreements whose duties nobody has noted yet."""
        noted = select(agreement_standings.c.agreement_id).where(
            agreement_standings.c.agreement_id == agreements.c.id, agreement_standings.c.duties_noted
        )
        statement = select(agreements.c.id).where(~noted.exists()).limit(limit)
        with self._database.reading() as connection:
            return list(connection.execute(statement).scalars())

    def note(self, found: Mapping[str, Sequence[Duty]], now: datetime) -> None:
        """Note the duties of agreements (by agreement id), each once."""
        rows = [_row(duty) for listed in found.values() for duty in listed]
        fresh = {"standing": IN_FORCE, "reason": "", "at": stamp(now), "duties_noted": True}
        stand = self._insert(agreement_standings).on_conflict_do_update(
            index_elements=["agreement_id"], set_={"duties_noted": True}
        )

        def work(transaction: Transaction) -> None:
            if rows:
                transaction.connection.execute(self._insert(duties).on_conflict_do_nothing(), rows)
            if found:
                transaction.connection.execute(stand, [{"agreement_id": one, **fresh} for one in sorted(found)])

        self._database.run("duties.note", work)

    def waiting_for_jobs(self) -> list[Duty]:
        """Return the duties that each job brings when it ends."""
        c = duties.c
        statement = select(duties).where(c.begins == Begins.JOB_END.value, c.began_at.is_(None))
        with self._database.reading() as connection:
            return [_value(row) for row in connection.execute(statement).mappings()]

    def begin(self, ended: Sequence[tuple[str, str, datetime]]) -> int:
        """Note the duties that ended jobs (agreement id, job id, when) bring, each once; return how many are new."""
        by_agreement: dict[str, list[Duty]] = {}
        for duty in self.waiting_for_jobs():
            by_agreement.setdefault(duty.agreement_id, []).append(duty)
        rows = [
            _row(begun(duty, at, job_id))
            for agreement_id, job_id, at in ended
            for duty in by_agreement.get(agreement_id, [])
        ]
        statement = self._insert(duties).on_conflict_do_nothing().returning(duties.c.duty_id)

        def work(transaction: Transaction) -> int:
            return sum(transaction.connection.execute(statement.values(row)).first() is not None for row in rows)

        return self._database.run("duties.begin", work) if rows else 0

    def cancel(self, agreement_id: str, reason: str, now: datetime) -> Standing:
        """End an agreement for good; the first reason stays, and what is owed after its end begins."""

        def work(transaction: Transaction) -> None:
            known = transaction.connection.execute(
                select(agreement_standings.c.standing).where(agreement_standings.c.agreement_id == agreement_id)
            ).scalar_one_or_none()
            if known != CANCELLED:
                values = {"standing": CANCELLED, "reason": reason[:500], "at": stamp(now)}
                self._stand(transaction.connection, agreement_id, now, values)
                _begin_after_end(transaction.connection, agreement_id, now)

        self._database.run("agreement.cancel", work)
        return self.standing(agreement_id, now)

    def standing(self, agreement_id: str, now: datetime) -> Standing:
        """Return how an agreement stands at ``now``; one that nothing is known about is in force."""
        current = self._database.current
        if current is not None:
            return _standing(current.connection, agreement_id, now)
        with self._database.reading() as connection:
            return _standing(connection, agreement_id, now)

    def all(self, agreement_id: str | None = None, limit: int = 500) -> list[Duty]:
        """Return duties: the overdue ones first, then by when they are due, those without a moment, the fulfilled."""
        c = duties.c
        order = (c.fulfilled_at.is_not(None), c.due_at.is_(None), c.due_at, c.duty_id)
        statement = select(duties).order_by(*order).limit(limit)
        if agreement_id is not None:
            statement = statement.where(duties.c.agreement_id == agreement_id)
        with self._database.reading() as connection:
            return [_value(row) for row in connection.execute(statement).mappings()]

    def overdue(self, now: datetime, limit: int = 500) -> list[Duty]:
        """Return the duties that should have been fulfilled."""
        c = duties.c
        statement = select(duties).where(c.fulfilled_at.is_(None), c.due_at <= stamp(now)).order_by(c.due_at)
        with self._database.reading() as connection:
            return [_value(row) for row in connection.execute(statement.limit(limit)).mappings()]

    def cancelled(self) -> list[tuple[str, str]]:
        """Return the agreements that were ended, with their reasons."""
        c = agreement_standings.c
        statement = select(c.agreement_id, c.reason).where(c.standing == CANCELLED)
        with self._database.reading() as connection:
            return [(row.agreement_id, row.reason) for row in connection.execute(statement)]

    def fulfil(self, duty_id: str, evidence: Mapping[str, Any], now: datetime) -> Duty:
        """Write a duty's fulfilment with its evidence; a second time changes nothing.

        Raises:
            UnknownRecordError: there is no such duty.
            ConsentFormatError: the evidence is empty or too long.
            ConsentStateError: nothing is owed yet.
        """

        def work(transaction: Transaction) -> Duty:
            row = transaction.connection.execute(select(duties).where(duties.c.duty_id == duty_id)).mappings().first()
            if row is None:
                raise UnknownRecordError("there is no such duty")
            done = fulfil(_value(row), evidence, now)
            values = {"fulfilled_at": stamp(done.fulfilled_at or now), "evidence": dict(done.evidence or {})}
            transaction.connection.execute(
                update(duties).where(duties.c.duty_id == duty_id, duties.c.fulfilled_at.is_(None)).values(**values)
            )
            return done

        return self._database.run("duty.fulfil", work)

    def _stand(self, connection: Connection, agreement_id: str, now: datetime, values: Mapping[str, Any]) -> None:
        fresh = {"standing": IN_FORCE, "reason": "", "at": stamp(now), "duties_noted": False, **values}
        statement = self._insert(agreement_standings).values(agreement_id=agreement_id, **fresh)
        connection.execute(statement.on_conflict_do_update(index_elements=["agreement_id"], set_=dict(values)))


def _standing(connection: Connection, agreement_id: str, now: datetime) -> Standing:
    s, d = agreement_standings.c, duties.c
    row = connection.execute(select(s.standing, s.reason).where(s.agreement_id == agreement_id)).first()
    if row is not None and row.standing == CANCELLED:
        return Standing(cancelled=True, reason=row.reason)
    late = select(duties).where(d.agreement_id == agreement_id, d.fulfilled_at.is_(None), d.due_at <= stamp(now))
    found = connection.execute(late.order_by(d.due_at)).mappings()
    return Standing(overdue=tuple(str(_value(item)) for item in found))


def _begin_after_end(connection: Connection, agreement_id: str, now: datetime) -> None:
    d = duties.c
    wanted = (d.agreement_id == agreement_id, d.begins == Begins.AGREEMENT_END.value, d.fulfilled_at.is_(None))
    for row in connection.execute(select(duties).where(*wanted)).mappings().all():
        duty = begun(_value(row), now)
        values = {name: _row(duty)[name] for name in ("began_at", "due_at")}
        connection.execute(update(duties).where(d.duty_id == duty.duty_id).values(**values))


def _row(duty: Duty) -> dict[str, Any]:
    return {
        "duty_id": duty.duty_id,
        "agreement_id": duty.agreement_id,
        "kind": duty.kind,
        "holder": duty.holder,
        "terms": duty.terms,
        "created_at": stamp(duty.created_at),
        "due_at": None if duty.due_at is None else stamp(duty.due_at),
        "fulfilled_at": None if duty.fulfilled_at is None else stamp(duty.fulfilled_at),
        "evidence": None if duty.evidence is None else dict(duty.evidence),
        "begins": duty.begins.value,
        "seconds": None if duty.length is None else duty.length.total_seconds(),
        "began_at": None if duty.began_at is None else stamp(duty.began_at),
        "job_id": duty.job_id or None,
    }


def _value(row: Mapping[Any, Any]) -> Duty:
    times = {
        name: None if row[name] is None else datetime.fromisoformat(row[name])
        for name in ("created_at", "due_at", "fulfilled_at", "began_at")
    }
    plain = {name: row[name] for name in ("duty_id", "agreement_id", "kind", "holder", "terms", "evidence")}
    return Duty(
        begins=Begins(row["begins"]),
        length=None if row["seconds"] is None else timedelta(seconds=row["seconds"]),
        job_id=row["job_id"] or "",
        **plain,
        **times,  # type: ignore[arg-type] # created_at is never NULL
    )
