"""The decision log in SQL: append, and read by agreement, period or anything newer than a place."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, not_, select

from connector.storage.database import Database, Transaction
from connector.storage.statements import Statement
from connector.storage.tables_decisions import decisions
from policies.scopes import Scope

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_PAGE = 1000
# The same answer to the same peer about the same offer is noted once in this time.
_SEEN_AGAIN = timedelta(hours=1)
_MOST_SEEN = 20_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedDecision:
    """One policy decision.

    Attributes:
        scope: one of the five of ``policies.scopes``.
        agreement_id: what was asked about, empty before there is an agreement; with ``job_id`` and ``round_number``
            where the asker knew them.
        verdict: ``permit`` or ``deny``.
        reasons: one object a comparison (``text`` and what it was made of); no subject id, no exact small count.
        policy_id: the policy that was asked: an offer or an agreement.
        assignee: the participant it was asked for.
        target: the dataset.
        duties: the actions that came with a permission.
        deferred: the operands that were left for a later scope.
    """

    at: datetime
    scope: str
    agreement_id: str
    verdict: str
    reasons: Sequence[Mapping[str, Any]]
    job_id: str | None = None
    round_number: int | None = None
    policy_id: str | None = None
    assignee: str | None = None
    target: str | None = None
    duties: Sequence[str] = ()
    deferred: Sequence[str] = ()


class SqlDecisionLog:
    """Decisions on SQLite or PostgreSQL; nothing is ever changed or removed. Safe between threads."""

    def __init__(self, database: Database) -> None:
        """Write to ``database``, migrated beforehand."""
        self._database = database
        self._append = Statement(
            decisions.insert().inline(), database.way, columns=[column.name for column in decisions.columns][1:]
        )
        self._waiting: list[LoggedDecision] = []
        self._seen: dict[tuple[str | None, str | None, str], datetime] = {}
        self._lock = threading.Lock()

    def add(self, decision: LoggedDecision) -> None:
        """Append a decision: in the transaction that this thread has open, else in one of its own."""
        row = {name: json.dumps(value) if isinstance(value, list) else value for name, value in _row(decision).items()}

        def work(transaction: Transaction) -> None:
            self._append.later(transaction.connection, **row)

        if self._database.current is not None:
            work(self._database.current)
        else:
            self._database.run("decision.add", work)

    def note(self, decision: LoggedDecision) -> None:
        """Keep a decision for the next :meth:`flush`: browsing a catalog must not wait for the log.

        The same verdict for the same peer and policy is noted once an hour.
        """
        key = (decision.policy_id, decision.assignee, decision.verdict)
        with self._lock:
            before = self._seen.get(key)
            if before is not None and decision.at - before < _SEEN_AGAIN:
                return
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[key] = decision.at
            self._waiting.append(decision)

    def flush(self) -> int:
        """Append what was noted and return how many decisions that were."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        rows = [_row(decision) for decision in waiting]
        if rows:
            try:
                self._database.run("decision.flush", lambda unit: unit.connection.execute(decisions.insert(), rows))
            except Exception:
                with self._lock:
                    self._waiting = waiting + self._waiting
                raise
        return len(rows)

    def uses(self, agreement_id: str, job_id: str | None, round_number: int | None) -> tuple[int, datetime | None]:
        """Return how many rounds were permitted under an agreement, and when the last one was.

        Asking twice for a round counts once; the round of ``job_id`` and ``round_number`` itself does not count.
        """
        c = decisions.c
        wanted: list[ColumnElement[bool]] = [
            c.agreement_id == agreement_id,
            c.scope == Scope.ROUND.value,
            c.verdict == "permit",
        ]
        if job_id is not None and round_number is not None:
            wanted.append(not_(and_(c.job_id == job_id, c.round == round_number)))
        permitted = select(func.max(c.at).label("at")).where(*wanted).group_by(c.job_id, c.round).subquery()
        statement = select(func.count(), func.max(permitted.c.at)).select_from(permitted)
        with self._database.reading() as connection:
            count, last = connection.execute(statement).one()
        return int(count), None if last is None else datetime.strptime(last, _TIME).replace(tzinfo=UTC)

    def of_agreement(self, agreement_id: str, limit: int = 100) -> list[LoggedDecision]:
        """Return the newest decisions about an agreement, newest first."""
        return self.newest(limit, agreement_id=agreement_id)

    def newest(
        self,
        limit: int = 100,
        *,
        agreement_id: str | None = None,
        scope: str | None = None,
        verdict: str | None = None,
        before: int | None = None,
    ) -> list[LoggedDecision]:
        """Return the newest decisions of a kind, newest first; ``before`` is the row number to page from."""
        return [decision for _number, decision in self.page(limit, agreement_id, scope, verdict, before)]

    def page(
        self, limit: int, agreement_id: str | None, scope: str | None, verdict: str | None, before: int | None
    ) -> list[tuple[int, LoggedDecision]]:
        """Return decisions with their row numbers, newest first (see :meth:`newest`)."""
        wanted: list[ColumnElement[bool]] = [
            column == value
            for column, value in (
                (decisions.c.agreement_id, agreement_id),
                (decisions.c.scope, scope),
                (decisions.c.verdict, verdict),
            )
            if value is not None
        ]
        if before is not None:
            wanted.append(decisions.c.id < before)
        statement = select(decisions).where(*wanted).order_by(decisions.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return [(row["id"], _value(row)) for row in connection.execute(statement).mappings()]

    def count(self, verdict: str, since: datetime) -> int:
        """Return how many decisions had a verdict since a moment."""
        wanted = and_(decisions.c.at >= _text(since), decisions.c.verdict == verdict)
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(decisions).where(wanted)).scalar_one())

    def between(
        self, start: datetime | None, end: datetime | None, *, keep: Callable[[LoggedDecision], bool] | None = None
    ) -> Iterator[LoggedDecision]:
        """Yield the decisions of a period (start included, end not), oldest first."""
        last = 0
        while True:
            wanted: list[ColumnElement[bool]] = [decisions.c.id > last]
            if start is not None:
                wanted.append(decisions.c.at >= _text(start))
            if end is not None:
                wanted.append(decisions.c.at < _text(end))
            statement = select(decisions).where(*wanted).order_by(decisions.c.id).limit(_PAGE)
            with self._database.reading() as connection:
                rows = connection.execute(statement).mappings().all()
            for row in rows:
                value = _value(row)
                if keep is None or keep(value):
                    yield value
            if len(rows) < _PAGE:
                return
            last = rows[-1]["id"]


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_TIME)


def _short(text: str | None) -> str | None:
    # A peer may name its offer at any length; the column holds this much.
    return None if text is None else text[:500]


def _row(decision: LoggedDecision) -> dict[str, Any]:
    return {
        "at": _text(decision.at),
        "scope": decision.scope,
        "agreement_id": decision.agreement_id,
        "job_id": decision.job_id,
        "round": decision.round_number,
        "verdict": decision.verdict,
        "reasons": [dict(reason) for reason in decision.reasons],
        "policy_id": _short(decision.policy_id),
        "assignee": _short(decision.assignee),
        "target": _short(decision.target),
        "duties": list(decision.duties),
        "deferred": list(decision.deferred),
    }


def _value(row: Mapping[Any, Any]) -> LoggedDecision:
    return LoggedDecision(
        at=datetime.strptime(row["at"], _TIME).replace(tzinfo=UTC),
        scope=row["scope"],
        agreement_id=row["agreement_id"],
        verdict=row["verdict"],
        reasons=tuple(row["reasons"]),
        job_id=row["job_id"],
        round_number=row["round"],
        policy_id=row["policy_id"],
        assignee=row["assignee"],
        target=row["target"],
        duties=tuple(row["duties"] or ()),
        deferred=tuple(row["deferred"] or ()),
    )
