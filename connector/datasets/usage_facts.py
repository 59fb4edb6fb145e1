"""What a decision must know beyond the plan: how often, when and for how long the data was used, and what was paid.

Read only when the agreement's policy asks for it. A use is a round of a job; asking twice for one round (a second
attempt) is one use.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from connector.storage.decisions import SqlDecisionLog
from connector.storage.duties import SqlDuties
from contracts.processes import AgreementRecord
from policies.model import ODRL
from policies.service import ConsentService

_COMPENSATE = ODRL + "compensate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UseFacts:
    """Facts about earlier uses under an agreement, by the names that ``policies.operands`` read."""

    decisions: SqlDecisionLog
    duties: SqlDuties
    seconds_used: Callable[[str], float]

    def read(
        self, agreement_id: str, job_id: str | None, round_number: int | None, needed: frozenset[str]
    ) -> Mapping[str, object]:
        """Return those of ``use_count``, ``last_used_at``, ``paid_amount``, ``used_seconds`` that are asked and known."""
        found: dict[str, object] = {}
        if needed & {"use_count", "last_used_at"}:
            count, last = self.decisions.uses(agreement_id, job_id, round_number)
            found["use_count"] = count + 1
            if last is not None:
                found["last_used_at"] = last
        if "paid_amount" in needed:
            found["paid_amount"] = self._paid(agreement_id)
        if "used_seconds" in needed:
            found["used_seconds"] = self.seconds_used(agreement_id)
        return {name: value for name, value in found.items() if name in needed}

    def _paid(self, agreement_id: str) -> float:
        amounts = (
            duty.evidence.get("amount")
            for duty in self.duties.all(agreement_id)
            if duty.kind == _COMPENSATE and duty.evidence is not None
        )
        return float(sum(amount for amount in amounts if isinstance(amount, (int, float)) and amount > 0))


class _Agreements(Protocol):
    def agreement(self, agreement_id: str) -> AgreementRecord | None:
        """Read a concluded agreement."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferFacts:
    """What is known of an agreement when a transfer is asked for: the approved plan, and the uses so far.

    Attributes:
        agreements: concluded agreements.
        plan_facts: what the approved plan says (``connector.datasets.usage.approved_plan_facts``).
        uses: facts about earlier uses.
        consents: what learners were told about the data.
    """

    agreements: _Agreements
    plan_facts: Callable[[str], Mapping[str, object]]
    uses: UseFacts
    consents: ConsentService

    def read(self, agreement_id: str, purpose: object, needed: frozenset[str]) -> Mapping[str, object]:
        """Return the facts that a policy needs; what nobody knows is left out, and denies."""
        record = self.agreements.agreement(agreement_id)
        if record is None or not needed:
            return {}
        found: dict[str, object] = {**self.plan_facts(agreement_id), "agreed_at": record.concluded_at}
        found |= self.uses.read(agreement_id, None, None, needed)
        if "data_categories" in needed and isinstance(purpose, str):
            found["data_categories"] = self.consents.terms(record.agreement.target, purpose).data_categories
        return {name: value for name, value in found.items() if name in needed}
