"""What a round's decision must know beyond the plan: how often and when the data was used, and what was paid.

Read only when the agreement's policy asks for it. A use is a round of a job; asking twice for one round (a second
attempt) is one use.
"""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, and_, func, not_, select

from connector.storage.database import Database
from connector.storage.duties import SqlDuties
from connector.storage.tables_decisions import decisions
from policies.model import ODRL
from policies.scopes import Scope

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_COMPENSATE = ODRL + "compensate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseFacts:
    """Facts about earlier uses under an agreement, by the names that ``policies.operands`` read."""

    database: Database
    duties: SqlDuties

    def read(
        self, agreement_id: str, job_id: str | None, round_number: int | None, needed: frozenset[str]
    ) -> Mapping[str, object]:
        """Return those of ``use_count``, ``last_used_at`` and ``paid_amount`` that are in ``needed`` and known."""
        found: dict[str, object] = {}
        if needed & {"use_count", "last_used_at"}:
            count, last = self._earlier(agreement_id, job_id, round_number)
            found["use_count"] = count + 1
            if last is not None:
                found["last_used_at"] = last
        if "paid_amount" in needed:
            found["paid_amount"] = self._paid(agreement_id)
        return {name: value for name, value in found.items() if name in needed}

    def _earlier(self, agreement_id: str, job_id: str | None, round_number: int | None) -> tuple[int, datetime | None]:
        c = decisions.c
        wanted: list[ColumnElement[bool]] = [
            c.agreement_id == agreement_id,
            c.scope == Scope.ROUND.value,
            c.verdict == "permit",
        ]
        if job_id is not None and round_number is not None:
            wanted.append(not_(and_(c.job_id == job_id, c.round == round_number)))
        uses = select(func.max(c.at).label("at")).where(*wanted).group_by(c.job_id, c.round).subquery()
        statement = select(func.count(), func.max(uses.c.at)).select_from(uses)
        with self.database.reading() as connection:
            count, last = connection.execute(statement).one()
        return int(count), None if last is None else datetime.strptime(last, _TIME).replace(tzinfo=UTC)

    def _paid(self, agreement_id: str) -> float:
        amounts = (
            duty.evidence.get("amount")
            for duty in self.duties.all(agreement_id)
            if duty.kind == _COMPENSATE and duty.evidence is not None
        )
        return float(sum(amount for amount in amounts if isinstance(amount, (int, float)) and amount > 0))
