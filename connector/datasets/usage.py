"""The usage gate: contract, policy and consent, asked anew for each round; what is not known denies.

Rows are only ever read with the subject's consent, also where a policy does not ask for it. How many consent leaves
this participant as a band at most.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from connector.storage.decisions import LoggedDecision
from connector.training_contracts import terms_of
from contracts.agreement import payload
from contracts.negotiation_service import consumer_facts
from contracts.processes import AgreementRecord
from contracts.states import Role
from learning.errors import StepFailedError
from learning.jobs import PlanState, ReceivedPlan
from learning.ports import GateAnswer, Store
from policies.counts import band
from policies.decision import Decision, Reason
from policies.gate import PolicyGate
from policies.operands.consent import COHORT_FLOOR
from policies.ports import UseSpan
from policies.scopes import Scope
from policies.service import ConsentService

_NO_NOISE = "none"


def _nothing(_agreement_id: str) -> Mapping[str, object]:
    """Know nothing more: a policy that constrains it denies."""
    return {}


def approved_plan_facts(store: Store) -> Callable[[str], Mapping[str, object]]:
    """Return ``plan_facts`` over the approved plans of the learning room: what the newest one under an agreement is."""

    def read(agreement_id: str) -> Mapping[str, object]:
        plans = [
            plan
            for plan in store.run("plan.facts", lambda records: records.select(ReceivedPlan))
            if plan.agreement_id == agreement_id and plan.state is PlanState.APPROVED
        ]
        if not plans:
            return {}
        newest = max(plans, key=lambda plan: plan.received_at)
        mode = newest.document["payload"]["aggregation"]["mode"]
        return {"algorithm_digest": newest.plan_digest, "aggregation": mode, "output_kind": "model"}

    return read


class Agreements(Protocol):
    """Where concluded agreements are; ``contracts.ports.Store`` is one."""

    def agreement(self, agreement_id: str) -> AgreementRecord | None:
        """Read a concluded agreement."""
        ...


class Decisions(Protocol):
    """Where decisions are logged; ``connector.storage.decisions.SqlDecisionLog`` is one."""

    def add(self, decision: LoggedDecision) -> None:
        """Append a decision."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class UsageGate:
    """``learning.ports.Gate`` of a data provider.

    Attributes:
        agreements: concluded agreements.
        consents: this provider's consent service.
        decisions: the decision log.
        now: aware UTC time.
        plan_facts: what else is known at a round under an agreement, by the names that ``policies.operands`` read
            (``aggregation``, ``algorithm_digest``, ``output_kind``, ``use_count``, ``epsilon_spent``...).
        noise: what a learner's history says of the noise in a round they took part in.
    """

    agreements: Agreements
    consents: ConsentService
    decisions: Decisions
    now: Callable[[], datetime]
    plan_facts: Callable[[str], Mapping[str, object]] = _nothing
    noise: str = _NO_NOISE

    def floor_met(self, agreement_id: str, floor: int, purpose: str) -> bool:
        """Say whether enough learners consent for the asker's floor and the agreement's own."""
        record = self._record(agreement_id)
        if record is None:
            return False
        terms = terms_of(record)
        if not purpose or purpose != terms.purpose:
            return False
        return self.consents.floor_met(terms.dataset_id, purpose, max(floor, terms.cohort_floor))

    def check(
        self,
        agreement_id: str,
        purpose: str,
        algorithm_class: str,
        floor: int,
        *,
        job_id: str | None = None,
        round_number: int | None = None,
    ) -> GateAnswer:
        """Decide about one round, and log the decision; ``job_id`` and ``round_number`` are for the log."""
        record = self._record(agreement_id)
        if record is None:
            # Nobody's agreement has no log to keep.
            return GateAnswer(allowed=False, reasons=("agreement: there is no such agreement here",))
        terms = terms_of(record)
        subjects: frozenset[str] = frozenset()
        problem: str | None = None
        decision: Decision | None = None
        if not purpose or purpose != terms.purpose:
            problem = f"purpose: asked {purpose or 'none'}, the agreement allows {terms.purpose or 'none'}"
        else:
            subjects = self.consents.consenting(terms.dataset_id, purpose, self.now())
            need = max(floor, terms.cohort_floor, 1)
            decision = self._decide(record, purpose, algorithm_class, subjects, need)
            if decision.allowed and len(subjects) < need:
                problem = "cohortFloor: fewer learners consent now than the plan asks for"
        allowed = problem is None and decision is not None and decision.allowed
        self.decisions.add(
            LoggedDecision(
                at=self.now(),
                scope=Scope.ROUND.value,
                agreement_id=agreement_id,
                verdict="permit" if allowed else "deny",
                reasons=[*_problems(problem), *(_reason(item) for item in (decision.reasons if decision else ()))],
                job_id=job_id,
                round_number=round_number,
            )
        )
        if allowed:
            return GateAnswer(allowed=True, subjects=subjects)
        refusals = decision.refusals if decision else ()
        return GateAnswer(allowed=False, reasons=(*((problem,) if problem else ()), *refusals))

    def used(self, agreement_id: str, job_id: str, round_number: int, subjects: frozenset[str]) -> None:
        """Note whose rows a round read, as spans of rounds: only who comes or goes makes a row.

        Raises:
            StepFailedError: the agreement is gone or names no purpose, so that nothing may have been read.
        """
        record = self._record(agreement_id)
        terms = terms_of(record) if record is not None else None
        if terms is None or terms.purpose is None:
            raise StepFailedError("no-agreement", "the use cannot be noted: its agreement names no purpose here")
        use = UseSpan(
            job_id=job_id,
            dataset_id=terms.dataset_id,
            purpose=terms.purpose,
            first_round=round_number,
            last_round=round_number,
            noise=self.noise,
        )
        self.consents.record_use(use, subjects)

    def _record(self, agreement_id: str) -> AgreementRecord | None:
        record = self.agreements.agreement(agreement_id)
        return record if record is not None and record.role is Role.PROVIDER else None

    def _decide(
        self, record: AgreementRecord, purpose: str, algorithm_class: str, subjects: frozenset[str], need: int
    ) -> Decision:
        facts: dict[str, object] = {
            **self.plan_facts(record.agreement.id),
            **consumer_facts(record.counterparty),
            "target": record.agreement.target,
            "agreed_at": record.concluded_at,
            "purpose": purpose,
            "algorithm_class": algorithm_class,
            "consent": "granted",
            "cohort_size": len(subjects),
        }
        decision = PolicyGate(now=self.now).decide(Scope.ROUND, payload(record.agreement), facts)
        shown = str(band(len(subjects), need))
        return dataclasses.replace(decision, reasons=tuple(_banded(reason, shown) for reason in decision.reasons))


def _banded(reason: Reason, shown: str) -> Reason:
    """Reasons travel to the consumer: the number of consenting learners does not."""
    return dataclasses.replace(reason, fact=shown) if reason.operand == COHORT_FLOOR else reason


def _problems(problem: str | None) -> Iterable[dict[str, Any]]:
    return [{"text": problem, "code": problem.partition(":")[0]}] if problem else []


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "text": str(reason),
        "code": reason.code,
        "rule": reason.rule,
        "operand": reason.operand,
        "operator": reason.operator,
        "fact": reason.fact,
        "required": list(reason.required),
        "truth": reason.truth.value,
    }
