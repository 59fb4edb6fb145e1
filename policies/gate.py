"""The policy gate: from a policy as JSON to a logged decision, in the shape that the other rooms ask for."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from policies.decision import Decision, Reason, Truth, Verdict
from policies.errors import PolicyFormatError
from policies.evaluate import USE, evaluate, required_facts
from policies.model import ODRL, ORCHARD, Atomic, Constraint, Operator, Policy
from policies.operands.compare import number
from policies.operands.consent import COHORT_FLOOR, CONSENT
from policies.parse import parse_policy
from policies.scopes import Scope

_LONGEST_KEPT = 16_384


def _nowhere(_decision: Decision) -> None:
    """Drop a decision that nobody asked to see."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyGate:
    """Decides, and hands every decision to ``log`` (the decision log of the connector)."""

    now: Callable[[], datetime]
    log: Callable[[Decision], None] = _nowhere

    def decide(
        self, scope: Scope | str, policy: Policy | Mapping[str, Any], facts: Mapping[str, object], *, action: str = USE
    ) -> Decision:
        """Decide at ``scope`` (a Scope or its value) under a policy, parsed or as JSON.

        A policy that cannot be read denies; it does not raise.

        Raises:
            ValueError: ``scope`` is not one of the five.
        """
        place = Scope(scope)
        try:
            parsed = policy if isinstance(policy, Policy) else _parsed(policy)
            decision = evaluate(parsed, facts, place, self.now(), action=action)
        except PolicyFormatError as error:
            decision = malformed(place, str(error))
        self.log(decision)
        return decision


def needed_facts(policy: Mapping[str, Any], scope: Scope) -> frozenset[str]:
    """Return the names of the facts that a policy reads at ``scope``; none where it cannot be read."""
    try:
        return frozenset(required_facts(_parsed(policy), scope).values())
    except PolicyFormatError:
        return frozenset()


def _parsed(document: Mapping[str, Any]) -> Policy:
    """Parse a policy, or find it parsed: the same few offers and agreements are decided about again and again."""
    try:
        text = json.dumps(document, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        # Not JSON at all, or nested without end: the parser says what is wrong.
        return parse_policy(document)
    return parse_policy(document) if len(text) > _LONGEST_KEPT else _kept(text)


@functools.lru_cache(maxsize=512)
def _kept(text: str) -> Policy:
    return parse_policy(json.loads(text))


def malformed(scope: Scope, problem: str) -> Decision:
    """Return the denial for a policy that cannot be read."""
    reason = Reason(
        rule="policy",
        operand=ODRL + "Policy",
        operator="",
        fact=problem,
        required=(),
        truth=Truth.UNKNOWN,
        kind=None,
        code="malformed",
    )
    return Decision(verdict=Verdict.DENY, scope=scope, policy_id="", reasons=(reason,))


def denied(decision: Decision, problems: Sequence[str]) -> Decision:
    """Return the decision as a denial for what a policy does not know: its agreement was ended, a duty is overdue.

    Args:
        decision: what the policy says.
        problems: sentences; without any the decision stays as it is.
    """
    if not problems:
        return decision
    reasons = tuple(
        Reason(
            rule="agreement",
            operand=ORCHARD + "standing",
            operator="",
            fact=problem,
            required=(),
            truth=Truth.VIOLATED,
            kind=None,
            code="standing",
        )
        for problem in problems
    )
    return dataclasses.replace(decision, verdict=Verdict.DENY, reasons=reasons + decision.reasons, duties=())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a policy asks of the provider's own side.

    Attributes:
        consent: whether rows of a subject need that subject's consent.
        cohort_floor: the smallest number of subjects a round may read, None when the policy names none.
        purposes: the purposes its permissions name.
    """

    consent: bool
    cohort_floor: int | None
    purposes: tuple[str, ...]


def requirements(policy: Policy) -> Requirements:
    """Return what the permissions of ``policy`` ask; found anywhere inside them, it counts (the stricter reading)."""
    atoms = [atom for rule in policy.permissions for part in rule.constraints for atom in _atoms(part)]
    floors = [_floor(atom) for atom in atoms if atom.left == COHORT_FLOOR]
    purposes = [str(name) for atom in atoms if atom.left == ODRL + "purpose" for name in atom.right]
    return Requirements(
        consent=any(atom.left == CONSENT for atom in atoms),
        cohort_floor=max(floors) if floors else None,
        purposes=tuple(dict.fromkeys(purposes)),
    )


def _atoms(constraint: Constraint) -> list[Atomic]:
    if isinstance(constraint, Atomic):
        return [constraint]
    return [atom for part in constraint.parts for atom in _atoms(part)]


def _floor(atom: Atomic) -> int:
    value = number(atom.right[0]) if atom.right else None
    if value is None:
        return 0
    return int(value) + (1 if atom.operator is Operator.GT else 0)
