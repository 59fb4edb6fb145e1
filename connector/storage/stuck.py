"""Which messages to peers were tried and not taken: what an operator must look at."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, or_, select

from connector.storage.contract_rows import maybe_time, outbox_of, time_of
from connector.storage.database import Database
from connector.storage.tables_contracts import outbox, processes
from contracts.processes import OutboxRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class StuckMessage:
    """A message that its peer has not taken, and what is known about it.

    Attributes:
        given_up: nothing will be tried any more; else ``next_attempt_at`` says when.
        last_status: HTTP status of the peer's last answer; None when it did not answer.
        last_answer: the start of what it said.
    """

    pid: str
    kind: str
    state: str
    counterparty: str
    step: str
    attempts: int
    last_attempt_at: datetime | None
    last_status: int | None
    last_answer: str
    given_up: bool
    next_attempt_at: datetime


def undelivered(connection: Connection, pids: Sequence[str]) -> dict[str, list[OutboxRow]]:
    """Return, of each of these processes, the messages that wait to be sent or were given up, oldest first."""
    c = outbox.c
    statement = select(outbox).where(c.pid.in_(pids), c.status.in_(("queued", "dead"))).order_by(c.id)
    found: dict[str, list[OutboxRow]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.pid, []).append(outbox_of(row))
    return found


def stuck_messages(database: Database, limit: int) -> list[StuckMessage]:
    """Return messages that were tried in vain, those that still wait first, then the newest; at most ``limit``."""
    c, p = outbox.c, processes.c
    tried = or_(c.status == "dead", (c.status == "queued") & c.last_attempt_at.is_not(None))
    statement = (
        select(outbox, p.state, p.counterparty_id)
        .join_from(outbox, processes, c.pid == p.pid)
        .where(tried)
        .order_by(c.status.desc(), c.last_attempt_at.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        return [
            StuckMessage(
                pid=row.pid,
                kind=row.kind,
                state=row.state,
                counterparty=row.counterparty_id,
                step=row.step,
                attempts=row.attempts,
                last_attempt_at=maybe_time(row.last_attempt_at),
                last_status=row.last_status,
                last_answer=row.last_answer or "",
                given_up=row.status == "dead",
                next_attempt_at=time_of(row.due_at),
            )
            for row in connection.execute(statement)
        ]
