"""The outbox's statements: ordered per process, leased, kept until settled."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
)
from sqlalchemy.dialects import postgresql

from connector.storage.contract_rows import maybe_micros, micros, outbox_of
from connector.storage.direct import Direct
from connector.storage.statements import Result, Statement
from connector.storage.tables_contracts import outbox
from contracts.processes import OutboxRow

_COLUMNS = (
    "pid",
    "kind",
    "step",
    "message_id",
    "audience",
    "url",
    "body",
    "status",
    "due_at",
    "created_at",
)
_SETTLED = ("status", "due_at", "lease", "lease_until", "last_attempt_at", "last_status", "last_code", "last_answer")
_earlier = outbox.alias("earlier")
# Written out: an index over the queued rows serves only a statement that says so itself.
_QUEUED: Any = literal_column("'queued'")
# A process has a few rows, found by its id. Said so that no index over all that is queued serves instead: on a young
# table PostgreSQL would choose that one while it is small, and keep to it when thousands are queued.
_NO_INDEX: Any = literal_column("''")


class OutboxStatements:
    """Everything that touches ``dsp_outbox``, for one database."""

    def __init__(self, way: Direct) -> None:
        """Compile the statements."""
        c = outbox.c
        free = or_(c.lease_until.is_(None), c.lease_until <= bindparam("now"))
        waits = and_(c.status == _QUEUED, c.due_at <= bindparam("now"), free, c.audience.not_in(_names(way)))
        # A look-up per row that is due: a join would compare every queued row with every other where statistics are young.
        first = c.id == (
            select(func.min(_earlier.c.id))
            .where(_earlier.c.pid == c.pid, _waits(_earlier))
            .correlate(outbox)
            .scalar_subquery()
        )
        self._insert = Statement(_appended(), way, columns=_COLUMNS)
        self._settle = Statement(
            outbox.update().where(
                c.id == bindparam("row_id"), c.lease == bindparam("held"), c.attempts == bindparam("attempt")
            ),
            way,
            columns=_SETTLED,
        )
        self._next = Statement(_leased_next(), way, columns=("lease", "lease_until"))
        self._due = Statement(
            select(outbox)
            .where(waits, first)
            .order_by(c.due_at)
            .limit(bindparam("most"))
            .with_for_update(skip_locked=True),
            way,
        )
        self._lease = Statement(
            outbox.update().where(c.id == bindparam("row_id")), way, columns=("lease", "lease_until", "attempts")
        )
        self._renew = Statement(
            outbox.update().where(
                c.id == bindparam("row_id"),
                c.lease == bindparam("held"),
                c.attempts == bindparam("attempt"),
                c.status == _QUEUED,
            ),
            way,
            columns=("lease_until",),
        )
        self._hold = Statement(
            outbox.update().where(
                c.audience == bindparam("peer"), c.status == _QUEUED, c.due_at < bindparam("before"), free
            ),
            way,
            columns=("due_at",),
        )
        self._drop = Statement(
            outbox.update().where(c.pid == bindparam("of_pid"), _waits(outbox)), way, columns=("status",)
        )
        self._release = Statement(
            outbox.update().where(c.status == _QUEUED, c.lease.startswith(bindparam("holder"), autoescape=False)),
            way,
            columns=("lease", "lease_until"),
        )
        self._of = Statement(select(outbox).where(c.pid == bindparam("of_pid")).order_by(c.id), way)

    def enqueue(
        self, connection: Connection, row: OutboxRow, lease: str | None, until: datetime
    ) -> Callable[[], OutboxRow]:
        """Append a row, leased at once unless an earlier one of the process still waits; returns who knows it then."""
        found: list[OutboxRow] = []

        def heard(result: Result) -> None:
            added = result.one()
            held = until if added.lease else None
            found.append(
                dataclasses.replace(row, id=added.id, lease=added.lease, lease_until=held, attempts=added.attempts)
            )

        columns = {
            "pid": row.pid,
            "kind": row.kind.value,
            "step": row.step,
            "message_id": row.message_id,
            "audience": row.audience,
            "url": row.url,
            "body": row.body,
            "status": row.status.value,
            "due_at": micros(row.due_at),
            "created_at": micros(row.created_at),
        }
        wanted = {"wanted": lease, "wanted_until": micros(until) if lease else None, "tried": 1 if lease else 0}
        self._insert.ask(connection, heard, of_pid=row.pid, **columns, **wanted)
        return lambda: found[0]

    def finish(self, connection: Connection, row: OutboxRow, at: datetime, answer_status: int) -> None:
        """Write that a message was taken if its lease still holds."""
        self._settle.later(connection, **_result(row, "sent", at, answer_status))

    def settle(
        self,
        connection: Connection,
        row: OutboxRow,
        *,
        status: str,
        at: datetime,
        answer_status: int | None,
        answer_code: str | None,
        answer: str | None,
        due_at: datetime | None,
    ) -> bool:
        """Write the result of an attempt if its lease still holds."""
        result = _result(row, status, at, answer_status) | {"last_code": answer_code, "last_answer": answer}
        if due_at is not None:
            result["due_at"] = micros(due_at)
        return self._settle.run(connection, **result).rowcount == 1

    def lease_next(
        self, connection: Connection, pid: str, *, lease: str, now: datetime, until: datetime
    ) -> Callable[[], OutboxRow | None]:
        """Lease a process's first queued row if it is due and free; returns who knows it once that is committed."""
        found: list[OutboxRow] = []

        def heard(result: Result) -> None:
            found.extend(outbox_of(row) for row in result.all())

        self._next.ask(connection, heard, of_pid=pid, now=micros(now), lease=lease, lease_until=micros(until))
        return lambda: found[0] if found else None

    def renew(self, connection: Connection, row: OutboxRow, until: datetime) -> bool:
        """Hold a row for longer if it is still leased as ``row`` says."""
        done = self._renew.run(
            connection, row_id=row.id, held=row.lease, attempt=row.attempts, lease_until=micros(until)
        )
        return done.rowcount == 1

    def hold(self, connection: Connection, audience: str, until: datetime, now: datetime) -> None:
        """Put off what is queued for a peer and in nobody's hands."""
        due = micros(until)
        self._hold.later(connection, peer=audience, before=due, due_at=due, now=micros(now))

    def lease_due(
        self,
        connection: Connection,
        *,
        lease: str,
        now: datetime,
        until: datetime,
        limit: int,
        skip: frozenset[str],
    ) -> Sequence[OutboxRow]:
        """Lease rows that are due, at most one per process and none for the peers in ``skip``."""
        found = self._due.run(connection, now=micros(now), most=limit, names=json.dumps(sorted(skip))).all()
        return [self._leased(connection, row, lease, until) for row in found]

    def release(self, connection: Connection, holder: str) -> None:
        """Free the queued rows whose lease begins with ``holder``."""
        self._release.run(connection, holder=holder, lease=None, lease_until=None)

    def drop_queued(self, connection: Connection, pid: str) -> None:
        """Drop what a process still had to say."""
        self._drop.later(connection, of_pid=pid, status="dropped")

    def of(self, connection: Connection, pid: str) -> Sequence[OutboxRow]:
        """Return a process's rows, oldest first."""
        return [outbox_of(row) for row in self._of.run(connection, of_pid=pid).all()]

    def _leased(self, connection: Connection, found: Any, lease: str, until: datetime) -> OutboxRow:
        row = outbox_of(found)
        attempts = row.attempts + 1
        self._lease.later(connection, row_id=row.id, lease=lease, lease_until=maybe_micros(until), attempts=attempts)
        return dataclasses.replace(row, lease=lease, lease_until=until, attempts=attempts)


def _result(row: OutboxRow, status: str, at: datetime, answer_status: int | None) -> dict[str, Any]:
    return {
        "row_id": row.id,
        "held": row.lease,
        "attempt": row.attempts,
        "status": str(status),
        "due_at": micros(row.due_at),
        "lease": None,
        "lease_until": None,
        "last_attempt_at": micros(at),
        "last_status": answer_status,
        "last_code": None,
        "last_answer": None,
    }


def _waits(table: Any) -> Any:
    return table.c.status.concat(_NO_INDEX) == _QUEUED


def _leased_next() -> Any:
    """Return the statement that leases the first row of a process which waits, if it is due and free.

    A row that nobody has tried or put off is due whatever the time: whoever wrote it may have kept us waiting, and have
    looked at the clock after us.
    """
    c = outbox.c
    first = select(func.min(_earlier.c.id)).where(_earlier.c.pid == bindparam("of_pid"), _waits(_earlier))
    due = or_(c.due_at <= bindparam("now"), c.due_at == c.created_at)
    free = or_(c.lease_until.is_(None), c.lease_until <= bindparam("now"))
    taken = outbox.update().where(c.id == first.scalar_subquery(), _waits(outbox), due, free)
    return taken.values(attempts=c.attempts + literal_column("1")).returning(*c)


def _appended() -> Any:
    """Return the statement that appends a row, leased unless an earlier one of its process still waits.

    Whoever writes an earlier one's end right now is waited for: it may have looked for a next row just before this one
    came, and then nobody would send this one until the sweep.
    """
    c = _earlier.c
    earlier = select(c.id).where(c.pid == bindparam("of_pid"), _waits(_earlier)).limit(literal_column("1"))
    waiting = earlier.with_for_update(read=True).cte("waiting")
    waits = select(waiting.c.id).exists()
    leased = {
        "lease": case((waits, null()), else_=cast(bindparam("wanted"), String)),
        "lease_until": case((waits, null()), else_=cast(bindparam("wanted_until"), BigInteger)),
        "attempts": case((waits, 0), else_=cast(bindparam("tried"), Integer)),
    }
    o = outbox.c
    return outbox.insert().values(**leased).returning(o.id, o.lease, o.attempts).add_cte(waiting)


def _names(way: Direct) -> Any:
    """Return the members of the JSON array ``names`` as a subquery."""
    given: Any = bindparam("names")
    if way.dialect.name == "postgresql":
        return select(func.jsonb_array_elements_text(cast(given, postgresql.JSONB)).column_valued("name"))
    return select(func.json_each(given).table_valued("value").c.value)
