"""What a round's decision must know beyond the plan: how often and when the data was used, and what was paid.

Read only when the agreement's policy asks for it. A use is a round of a job; asking twice for one round (a second
attempt) is one use.
"""

import dataclasses
from collections.abc import Mapping

from connector.storage.decisions import SqlDecisionLog
from connector.storage.duties import SqlDuties
from policies.model import ODRL

_COMPENSATE = ODRL + "compensate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseFacts:
    """Facts about earlier uses under an agreement, by the names that ``policies.operands`` read."""

    decisions: SqlDecisionLog
    duties: SqlDuties

    def read(
        self, agreement_id: str, job_id: str | None, round_number: int | None, needed: frozenset[str]
    ) -> Mapping[str, object]:
        """Return those of ``use_count``, ``last_used_at`` and ``paid_amount`` that are in ``needed`` and known."""
        found: dict[str, object] = {}
        if needed & {"use_count", "last_used_at"}:
            count, last = self.decisions.uses(agreement_id, job_id, round_number)
            found["use_count"] = count + 1
            if last is not None:
                found["last_used_at"] = last
        if "paid_amount" in needed:
            found["paid_amount"] = self._paid(agreement_id)
        return {name: value for name, value in found.items() if name in needed}

    def _paid(self, agreement_id: str) -> float:
        amounts = (
            duty.evidence.get("amount")
            for duty in self.duties.all(agreement_id)
            if duty.kind == _COMPENSATE and duty.evidence is not None
        )
        return float(sum(amount for amount in amounts if isinstance(amount, (int, float)) and amount > 0))
