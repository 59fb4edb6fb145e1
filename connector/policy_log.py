"""The policy gate as the contracts room asks it, with every decision logged and the agreement's standing above it.

A decision that is taken inside a transaction is logged in that transaction: both are there, or neither. Decisions about
what a peer may see in a catalog are many and repeat; they are noted once an hour and written by the policy watch.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from connector.storage.decisions import LoggedDecision, SqlDecisionLog
from policies.decision import Decision, Reason
from policies.evaluate import USE
from policies.gate import PolicyGate, denied, needed_facts
from policies.model import short
from policies.scopes import Scope

MoreFacts: TypeAlias = Callable[[str, object, frozenset[str]], Mapping[str, object]]


def _in_force(_agreement_id: str) -> tuple[str, ...]:
    """Know of no agreement that was ended."""
    return ()


def _nothing(_agreement_id: str, _purpose: object, _needed: frozenset[str]) -> Mapping[str, object]:
    """Know nothing more."""
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedPolicyGate:
    """``contracts.ports.PolicyGate`` of this participant.

    Attributes:
        gate: decides.
        log: where decisions go.
        now: aware UTC time.
        standing: why nothing may be done under an agreement any more, in sentences; empty while it is in force.
        more: what else is known when a transfer under an agreement is asked for (agreement id, purpose, the facts that
            the policy reads); asked outside transactions only.
    """

    gate: PolicyGate
    log: SqlDecisionLog
    now: Callable[[], datetime]
    standing: Callable[[str], Sequence[str]] = _in_force
    more: MoreFacts = _nothing

    def decide(
        self, scope: Scope | str, policy: Mapping[str, Any], facts: Mapping[str, object], *, action: str = USE
    ) -> Decision:
        """Decide, log, and return the decision; what cannot be known denies."""
        place = Scope(scope)
        named = str(policy.get("@id", ""))
        agreement_id = named if policy.get("@type") == "Agreement" else ""
        known = facts
        if agreement_id and place is Scope.TRANSFER and (needed := needed_facts(policy, place) - set(facts)):
            known = {**self.more(agreement_id, facts.get("purpose"), needed), **facts}
        decision = self.gate.decide(place, policy, known, action=action)
        if agreement_id:
            decision = denied(decision, self.standing(agreement_id))
        line = logged(
            decision,
            at=self.now(),
            agreement_id=agreement_id,
            policy_id=named,
            facts=facts,
            target=policy.get("target"),
        )
        if place is Scope.CATALOG:
            self.log.note(line)
        else:
            self.log.add(line)
        return decision


def logged(
    decision: Decision,
    *,
    at: datetime,
    agreement_id: str,
    policy_id: str,
    facts: Mapping[str, object],
    target: object = None,
    job_id: str | None = None,
    round_number: int | None = None,
) -> LoggedDecision:
    """Return the log's line of a decision; of the facts only who asked about what is kept."""
    assignee, wanted = facts.get("assignee"), facts.get("target", target)
    return LoggedDecision(
        at=at,
        scope=decision.scope.value,
        agreement_id=agreement_id,
        verdict=decision.verdict.value,
        reasons=[reason_row(reason) for reason in decision.reasons],
        job_id=job_id,
        round_number=round_number,
        policy_id=policy_id,
        assignee=assignee if isinstance(assignee, str) else None,
        target=wanted if isinstance(wanted, str) else None,
        duties=[short(duty.action) for duty in decision.duties],
        deferred=[short(name) for name in decision.deferred],
    )


def reason_row(reason: Reason) -> dict[str, Any]:
    """Return a reason as JSON: its sentence and what it was made of."""
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
