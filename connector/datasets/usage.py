"""The usage gate: contract, policy and consent, asked anew for each round; what is not known denies.

Rows are only ever read with the subject's consent, also where a policy does not ask for it. How many consent leaves
this participant as a band at most.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

from connector.policy_log import logged
from connector.storage.decisions import LoggedDecision
from connector.training_contracts import terms_of
from contracts.agreement import payload
from contracts.processes import AgreementRecord
from contracts.states import Role
from contracts.usage import consumer_facts
from learning.errors import StepFailedError
from learning.jobs import PlanState, ReceivedPlan
from learning.ports import GateAnswer, Store
from policies.counts import band
from policies.decision import Decision, Reason
from policies.evaluate import TRAIN
from policies.gate import PolicyGate, denied, needed_facts
from policies.operands.consent import COHORT_FLOOR
from policies.operands.training import WITHOUT_BOUND
from policies.ports import UseCost, UseSpan
from policies.scopes import Scope
from policies.service import ConsentService

_NO_NOISE = "none"
_NO_AGREEMENT = "agreement: there is no such agreement here"
USE_FACTS = frozenset({"use_count", "last_used_at", "paid_amount", "used_seconds"})


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
        plan = newest.document["payload"]
        known = {
            name: plan[name] for name in ("algorithm_class", "granularity", "epsilon") if plan.get(name) is not None
        }
        mode = plan["aggregation"]["mode"]
        return {"algorithm_digest": newest.plan_digest, "aggregation": mode, "output_kind": "model", **known}

    return read


def _in_force(_agreement_id: str) -> Sequence[str]:
    """Know of no agreement that was ended."""
    return ()


def _as_recorded(_dataset_id: str, _purpose: str, subjects: frozenset[str]) -> frozenset[str]:
    """Ask nobody: every consent was given here."""
    return subjects


def _no_uses(
    _agreement_id: str, _job_id: str | None, _round: int | None, _needed: frozenset[str]
) -> Mapping[str, object]:
    """Know of no earlier use."""
    return {}


UseFactsReader: TypeAlias = Callable[[str, "str | None", "int | None", frozenset[str]], Mapping[str, object]]


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
            (``aggregation``, ``algorithm_digest``, ``output_kind``...), and ``epsilon`` for a plan whose rounds are noisy.
        noise: what a learner's history says of the noise in a round they took part in.
        standing: why nothing may be done under an agreement any more (it was ended, a duty is overdue); beats consent.
        use_facts: what is known of earlier uses, asked for only what the policy reads.
        confirm: of the subjects who consent here, those whose consent another service still confirms
            (dataset id, purpose, subjects); who cannot be confirmed is left out.
    """

    agreements: Agreements
    consents: ConsentService
    decisions: Decisions
    now: Callable[[], datetime]
    plan_facts: Callable[[str], Mapping[str, object]] = _nothing
    noise: str = _NO_NOISE
    standing: Callable[[str], Sequence[str]] = _in_force
    use_facts: UseFactsReader = _no_uses
    confirm: Callable[[str, str, frozenset[str]], frozenset[str]] = _as_recorded

    def floor_met(self, agreement_id: str, floor: int, purpose: str) -> bool:
        """Say whether enough learners consent for the asker's floor and the agreement's own."""
        record = self._record(agreement_id)
        if record is None or self.standing(agreement_id):
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
            return GateAnswer(allowed=False, reasons=(_NO_AGREEMENT,))
        terms = terms_of(record)
        problems = self._problems(record, purpose, algorithm_class)
        subjects: frozenset[str] = frozenset()
        if not problems:
            subjects = self.consents.consenting(terms.dataset_id, purpose, self.now())
            confirmed = self.confirm(terms.dataset_id, purpose, subjects)
            # Nobody is added by another service; where it keeps no consent, nothing is left out either.
            subjects = subjects if confirmed is subjects else confirmed & subjects
        need = max(floor, terms.cohort_floor, 1)
        asked = _Asked(
            purpose=purpose, algorithm_class=algorithm_class, size=len(subjects), job_id=job_id, round=round_number
        )
        plan = self.plan_facts(agreement_id)
        decision = self._decide(Scope.ROUND, record, asked, plan, need)
        if not problems and decision.allowed and len(subjects) < need:
            problems = ["cohortFloor: fewer learners consent now than the plan asks for"]
        # What is known before anybody is counted says it all; the policy's own view of nobody would only confuse.
        decision = denied(dataclasses.replace(decision, reasons=()) if problems else decision, problems)
        self._log(record, decision, asked)
        if decision.allowed:
            return GateAnswer(allowed=True, subjects=subjects, epsilon=_epsilon(plan) or 0.0)
        return GateAnswer(allowed=False, reasons=decision.refusals)

    def release(
        self,
        agreement_id: str,
        purpose: str,
        algorithm_class: str,
        subjects: int | None,
        *,
        job_id: str | None = None,
        round_number: int | None = None,
    ) -> GateAnswer:
        """Decide whether the model may leave the job, and log it.

        ``subjects`` is the size of our last cohort; None: what we have noted of the job.
        """
        record = self._record(agreement_id)
        if record is None:
            return GateAnswer(allowed=False, reasons=(_NO_AGREEMENT,))
        size = subjects
        if size is None:
            size = self.consents.store.last_cohort(job_id or "", record.agreement.target, purpose)
        asked = _Asked(purpose=purpose, algorithm_class=algorithm_class, size=size, job_id=job_id, round=round_number)
        plan, need = self.plan_facts(agreement_id), max(terms_of(record).cohort_floor, 1)
        decision = self._decide(Scope.RELEASE, record, asked, plan, need)
        decision = denied(decision, self._problems(record, purpose, algorithm_class))
        self._log(record, decision, asked)
        return GateAnswer(allowed=decision.allowed, reasons=decision.refusals)

    def _budget(self, dataset_id: str, epsilon: float | None, scope: Scope) -> object:
        """What the dataset has spent when this round is over; at release nothing more is spent."""
        if epsilon is None:
            return WITHOUT_BOUND
        return self.consents.store.epsilon_spent(dataset_id) + (epsilon if scope is Scope.ROUND else 0.0)

    def used(
        self,
        agreement_id: str,
        job_id: str,
        round_number: int,
        subjects: frozenset[str],
        *,
        seconds: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        """Note whose rows a round read, as spans of rounds (only who comes or goes makes a row), and what it cost.

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
        self.consents.record_use(use, subjects, UseCost(agreement_id=agreement_id, seconds=seconds, epsilon=epsilon))

    def _record(self, agreement_id: str) -> AgreementRecord | None:
        record = self.agreements.agreement(agreement_id)
        return record if record is not None and record.role is Role.PROVIDER else None

    def _problems(self, record: AgreementRecord, purpose: str, algorithm_class: str) -> list[str]:
        """What denies whoever consents: the agreement was ended, another purpose, another kind of computing."""
        found = list(self.standing(record.agreement.id))
        terms = terms_of(record)
        if not purpose or purpose != terms.purpose:
            found.append(f"purpose: asked {purpose or 'none'}, the agreement allows {terms.purpose or 'none'}")
            return found
        consented = self.consents.terms(terms.dataset_id, purpose).algorithm_classes
        if consented and algorithm_class not in consented:
            found.append(f"algorithmClass: asked {algorithm_class}, the learners consented to another one")
        return found

    def _decide(
        self, scope: Scope, record: AgreementRecord, asked: "_Asked", plan: Mapping[str, object], need: int
    ) -> Decision:
        document = payload(record.agreement)
        agreement_id, purpose = record.agreement.id, asked.purpose
        facts: dict[str, object] = {
            **plan,
            **consumer_facts(record.counterparty),
            "target": record.agreement.target,
            "agreed_at": record.concluded_at,
            "purpose": purpose,
            "algorithm_class": asked.algorithm_class,
            "consent": "granted",
            "cohort_size": asked.size,
        }
        needed = needed_facts(document, scope)
        if needed & USE_FACTS:
            facts |= self.use_facts(agreement_id, asked.job_id, asked.round, needed & USE_FACTS)
        if "epsilon_spent" in needed:
            facts["epsilon_spent"] = self._budget(record.agreement.target, _epsilon(plan), scope)
        if "data_categories" in needed:
            facts["data_categories"] = self.consents.terms(record.agreement.target, purpose).data_categories
        decision = PolicyGate(now=self.now).decide(scope, document, facts, action=TRAIN)
        shown = str(band(asked.size, need))
        return dataclasses.replace(decision, reasons=tuple(_banded(reason, shown) for reason in decision.reasons))

    def _log(self, record: AgreementRecord, decision: Decision, asked: "_Asked") -> None:
        self.decisions.add(
            logged(
                decision,
                at=self.now(),
                agreement_id=record.agreement.id,
                policy_id=record.agreement.id,
                facts={"assignee": record.agreement.assignee, "target": record.agreement.target},
                job_id=asked.job_id,
                round_number=asked.round,
            )
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Asked:
    purpose: str
    algorithm_class: str
    size: int
    job_id: str | None
    round: int | None


def _epsilon(plan: Mapping[str, object]) -> float | None:
    """What a round of the plan spends; None for a plan without noise, which has no bound."""
    found = plan.get("epsilon")
    return float(found) if isinstance(found, (int, float)) and found > 0 else None


def _banded(reason: Reason, shown: str) -> Reason:
    """Reasons travel to the consumer: the number of consenting learners does not."""
    return dataclasses.replace(reason, fact=shown) if reason.operand == COHORT_FLOOR else reason
