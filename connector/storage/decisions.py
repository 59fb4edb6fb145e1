"""The decision log in SQL: append, and read by agreement."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from connector.storage.database import Database
from connector.storage.tables_decisions import decisions

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedDecision:
    """One policy decision.

    Attributes:
        scope: one of the five of ``policies.scopes``.
        agreement_id: what was asked about; with ``job_id`` and ``round_number`` where the asker knew them.
        verdict: ``permit`` or ``deny``.
        reasons: one object a comparison (``text`` and what it was made of); no subject id, no exact small count.
    """

    at: datetime
    scope: str
    agreement_id: str
    verdict: str
    reasons: Sequence[Mapping[str, Any]]
    job_id: str | None = None
    round_number: int | None = None


class SqlDecisionLog:
    """Decisions on SQLite or PostgreSQL; nothing is ever changed or removed."""

    def __init__(self, database: Database) -> None:
        """Write to ``database``, migrated beforehand."""
        self._database = database

    def add(self, decision: LoggedDecision) -> None:
        """Append a decision, in a transaction of its own."""
        row = {
            "at": decision.at.astimezone(UTC).strftime(_TIME),
            "scope": decision.scope,
            "agreement_id": decision.agreement_id,
            "job_id": decision.job_id,
            "round": decision.round_number,
            "verdict": decision.verdict,
            "reasons": [dict(reason) for reason in decision.reasons],
        }
        self._database.run("decision.add", lambda unit: unit.connection.execute(decisions.insert(), row))

    def of_agreement(self, agreement_id: str, limit: int = 100) -> list[LoggedDecision]:
        """Return the newest decisions about an agreement, newest first."""
        statement = (
            select(decisions)
            .where(decisions.c.agreement_id == agreement_id)
            .order_by(decisions.c.id.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [
                LoggedDecision(
                    at=datetime.strptime(row["at"], _TIME).replace(tzinfo=UTC),
                    scope=row["scope"],
                    agreement_id=row["agreement_id"],
                    verdict=row["verdict"],
                    reasons=tuple(row["reasons"]),
                    job_id=row["job_id"],
                    round_number=row["round"],
                )
                for row in connection.execute(statement).mappings()
            ]
