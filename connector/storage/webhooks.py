"""Webhooks in SQL: who wants to hear of consents, and what is still to be told to them.

A delivery is written in the transaction of the event that it tells of. Several processes may send: who moves a
delivery's next time on sends it; a sender that dies costs a repeat, and the event's id tells the receiver so.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from connector.storage.database import Database, Transaction
from connector.storage.tables_webhooks import webhook_deliveries, webhooks
from policies.consent import ConsentEvent
from policies.errors import UnknownRecordError
from policies.expressions import stamp

QUEUED, SENT, DEAD = "queued", "sent", "dead"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Webhook:
    """A subscription: ``events`` are states of consents (``granted``, ``withdrawn``...); empty is all of them.

    While it is paused nothing is sent, and what happens meanwhile waits.
    """

    webhook_id: str
    url: str
    events: tuple[str, ...]
    created_at: datetime
    paused_at: datetime | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delivery:
    """One event for one webhook; ``body`` is the JSON that is sent, the same on every attempt."""

    id: int
    webhook_id: str
    url: str
    event_id: str
    body: str
    status: str
    attempts: int
    created_at: datetime
    due_at: datetime
    last_status: int | None = None
    last_error: str | None = None


class SqlWebhooks:
    """Webhooks on SQLite or PostgreSQL."""

    def __init__(self, database: Database) -> None:
        """Keep them in ``database``, migrated beforehand."""
        self._database = database

    def add(self, webhook: Webhook) -> Webhook:
        """Subscribe an address."""
        row = {
            "webhook_id": webhook.webhook_id,
            "url": webhook.url,
            "events": list(webhook.events),
            "created_at": stamp(webhook.created_at),
        }
        self._database.run("webhook.add", lambda unit: unit.connection.execute(webhooks.insert(), row))
        return webhook

    def remove(self, webhook_id: str) -> None:
        """Drop a subscription and what was still to be told to it.

        Raises:
            UnknownRecordError: there is none of that id.
        """

        def work(transaction: Transaction) -> int:
            found = transaction.connection.execute(delete(webhooks).where(webhooks.c.webhook_id == webhook_id))
            return found.rowcount

        if not self._database.run("webhook.remove", work):
            raise UnknownRecordError("there is no such webhook")

    def all(self) -> list[Webhook]:
        """Return every subscription, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(webhooks).order_by(webhooks.c.created_at)).mappings().all()
        return [
            Webhook(
                webhook_id=row["webhook_id"],
                url=row["url"],
                events=tuple(row["events"]),
                created_at=datetime.fromisoformat(row["created_at"]),
                paused_at=None if row["paused_at"] is None else datetime.fromisoformat(row["paused_at"]),
            )
            for row in rows
        ]

    def pause(self, webhook_id: str, at: datetime | None) -> None:
        """Send nothing to a webhook from ``at`` on; None goes on with what has waited.

        Raises:
            UnknownRecordError: there is none of that id.
        """
        statement = (
            update(webhooks)
            .where(webhooks.c.webhook_id == webhook_id)
            .values(paused_at=None if at is None else stamp(at))
        )
        if not self._database.run("webhook.pause", lambda unit: unit.connection.execute(statement).rowcount):
            raise UnknownRecordError("there is no such webhook")

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many deliveries each webhook has, by their status."""
        d = webhook_deliveries.c
        statement = select(d.webhook_id, d.status, func.count()).group_by(d.webhook_id, d.status)
        found: dict[str, dict[str, int]] = {}
        with self._database.reading() as connection:
            for webhook_id, status, count in connection.execute(statement):
                found.setdefault(webhook_id, {})[status] = count
        return found

    def deliveries(self, webhook_id: str, status: str | None = None, limit: int = 100) -> list[Delivery]:
        """Return the newest deliveries of a webhook, newest first."""
        d = webhook_deliveries.c
        wanted = [d.webhook_id == webhook_id] + ([d.status == status] if status else [])
        return self._read(_JOINED.where(*wanted).order_by(d.id.desc()).limit(limit))

    def due(self, now: datetime, limit: int = 50) -> list[Delivery]:
        """Return deliveries whose time has come, oldest first."""
        return self._read(_DUE, {"now": stamp(now), "most": limit})

    def take(self, delivery: Delivery, until: datetime) -> bool:
        """Put a delivery off to ``until`` for this sender; False when another one took it."""
        d = webhook_deliveries.c
        statement = (
            update(webhook_deliveries)
            .where(d.id == delivery.id, d.status == QUEUED, d.attempts == delivery.attempts)
            .values(attempts=delivery.attempts + 1, due_at=stamp(until))
        )
        return bool(self._database.run("webhook.take", lambda unit: unit.connection.execute(statement).rowcount))

    def settle(
        self, delivery: Delivery, status: str, due_at: datetime, *, answer: int | None = None, error: str | None = None
    ) -> None:
        """Write what became of an attempt: ``sent``, ``dead``, or ``queued`` until ``due_at``."""
        values = {"status": status, "due_at": stamp(due_at), "last_status": answer, "last_error": error}
        statement = update(webhook_deliveries).where(webhook_deliveries.c.id == delivery.id).values(**values)
        self._database.run("webhook.settle", lambda unit: unit.connection.execute(statement))

    def again(self, webhook_id: str, now: datetime) -> int:
        """Queue a webhook's dead deliveries once more; return how many."""
        d = webhook_deliveries.c
        statement = (
            update(webhook_deliveries)
            .where(d.webhook_id == webhook_id, d.status == DEAD)
            .values(status=QUEUED, attempts=0, due_at=stamp(now))
        )
        return int(self._database.run("webhook.again", lambda unit: unit.connection.execute(statement).rowcount))

    def _read(self, statement: Any, values: Mapping[str, Any] | None = None) -> list[Delivery]:
        with self._database.reading() as connection:
            return [
                Delivery(
                    **{
                        **row,
                        "created_at": datetime.fromisoformat(row["created_at"]),
                        "due_at": datetime.fromisoformat(row["due_at"]),
                    }
                )
                for row in connection.execute(statement, values).mappings()
            ]


_JOINED = select(webhook_deliveries, webhooks.c.url).join(
    webhooks, webhooks.c.webhook_id == webhook_deliveries.c.webhook_id
)
# Asked every second: building a statement costs as much as running it.
_DUE = (
    _JOINED.where(
        webhook_deliveries.c.status == QUEUED,
        webhook_deliveries.c.due_at <= bindparam("now"),
        webhooks.c.paused_at.is_(None),
    )
    .order_by(webhook_deliveries.c.due_at, webhook_deliveries.c.id)
    .limit(bindparam("most"))
)


def queue_events(connection: Connection, events: Sequence[ConsentEvent], now: datetime) -> None:
    """Queue consent events for whoever wants them, in the transaction that makes them."""
    wanted = connection.execute(select(webhooks.c.webhook_id, webhooks.c.events)).all()
    rows = [
        {
            "webhook_id": webhook_id,
            "event_id": event.event_id,
            "body": body,
            "status": QUEUED,
            "attempts": 0,
            "created_at": stamp(now),
            "due_at": stamp(now),
        }
        for event, body in ((event, event_body(event)) for event in events if wanted)
        for webhook_id, states in wanted
        if not states or event.payload["state"] in states
    ]
    if rows:
        connection.execute(webhook_deliveries.insert(), rows)


def event_body(event: ConsentEvent) -> str:
    """Return what a webhook is told: what happened to which record; the person only as this provider's pseudonym."""
    payload = event.payload
    return json.dumps(
        {
            "type": f"consent.{payload['state']}",
            "event_id": event.event_id,
            "record_id": event.record_id,
            "revision": event.revision,
            "subject": payload["subject_ref"],
            "dataset_id": payload["dataset_id"],
            "purpose": payload["purpose"],
            "at": payload["at"],
            "expires_at": payload["expires_at"],
        },
        sort_keys=True,
        separators=(",", ":"),
    )
