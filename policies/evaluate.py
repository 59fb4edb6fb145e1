"""The decision procedure: (policy, facts, scope, now) -> Decision. Pure, total, three-valued.

1. What the law forbids is denied before the policy is read.
2. A constraint is satisfied, violated or unknown; an operand that declares it binds at other scopes is deferred, and
   listed. An unknown operand, operator or fact is unknown.
3. Parts are joined as in Kleene's logic, except that unknown weighs more than deferred.
4. A prohibition that is satisfied or unknown denies. Prohibition wins over permission.
5. At least one permission for the action must be satisfied or deferred; its duties and the policy's obligations come
   with the decision. A duty this connector cannot name denies.

Source: ODRL Information Model 2.2; Dataspace Protocol 2025-1, ODRL profile; DESIGN section 8.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime

from policies.decision import Decision, Reason, Truth, Verdict
from policies.model import ODRL, ORCHARD, Atomic, Constraint, Logic, Logical, Policy, Rule, RuleKind
from policies.operands import operand_for
from policies.operands.operand import Facts, Operand, Question
from policies.refusals import legal_refusals
from policies.scopes import Scope

USE = ODRL + "use"
TRAIN = ORCHARD + "train"

# Each action and the broader one it is included in (ODRL Vocabulary 2.2, "included in").
_INCLUDED_IN = {USE: None, TRAIN: USE, ODRL + "aggregate": USE, ODRL + "anonymize": USE, ODRL + "read": USE}
_DUTIES = frozenset(
    ODRL + name for name in ("delete", "inform", "compensate", "attribute", "obtainConsent", "anonymize", "include")
) | frozenset({ORCHARD + "notify", ORCHARD + "report"})
_LONGEST_FACT = 200


def evaluate(policy: Policy, facts: Facts, scope: Scope, now: datetime, *, action: str = USE) -> Decision:
    """Decide whether ``action`` is allowed under ``policy`` at ``scope``.

    Args:
        policy: a parsed policy (see :func:`policies.parse.parse_policy`).
        facts: what is known, by the keys the operands read (README, "Facts"); what is not there is unknown.
        scope: where in the exchange the question is asked.
        now: aware UTC time.
        action: the full IRI of what is to be done.

    Returns:
        The decision; never raises on anything a policy or the facts may hold.
    """
    return _Evaluation(policy=policy, facts=facts, scope=scope, now=now, action=action).decide()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outcome:
    """The truth of a constraint or rule with everything that was compared for it."""

    truth: Truth
    reasons: tuple[Reason, ...] = ()
    deferred: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluation:
    policy: Policy
    facts: Facts
    scope: Scope
    now: datetime
    action: str

    def decide(self) -> Decision:
        refusals = legal_refusals(self.facts) + self._parties()
        if refusals:
            return self._answer(Verdict.DENY, refusals)
        forbidding = [self._rule(rule, index) for index, rule in enumerate(self.policy.prohibitions)]
        permitting = [self._rule(rule, index) for index, rule in enumerate(self.policy.permissions)]
        deferred = tuple(name for outcome in forbidding for name in outcome.deferred)
        hits = [outcome for outcome in forbidding if outcome.truth in (Truth.SATISFIED, Truth.UNKNOWN)]
        if hits:
            return self._answer(Verdict.DENY, _reasons(hits), deferred=deferred)
        open_ones = [
            (rule, outcome)
            for rule, outcome in zip(self.policy.permissions, permitting, strict=True)
            if outcome.truth in (Truth.SATISFIED, Truth.DEFERRED)
        ]
        if not open_ones:
            return self._answer(Verdict.DENY, _reasons(permitting) or (self._no_permission(),), deferred=deferred)
        # The permission that leaves least for later speaks for the policy.
        rule, chosen = min(open_ones, key=lambda pair: len(pair[1].deferred))
        duties = rule.duties + self.policy.obligations
        strange = tuple(
            self._reason("duty", duty.action, "unknown-duty", None, RuleKind.OBLIGATION)
            for duty in duties
            if duty.action not in _DUTIES
        )
        if strange:
            return self._answer(Verdict.DENY, strange, deferred=deferred)
        return self._answer(
            Verdict.PERMIT,
            chosen.reasons + _reasons(forbidding),
            duties=duties,
            deferred=deferred + chosen.deferred,
        )

    def _answer(
        self,
        verdict: Verdict,
        reasons: tuple[Reason, ...],
        *,
        duties: tuple[Rule, ...] = (),
        deferred: tuple[str, ...] = (),
    ) -> Decision:
        return Decision(
            verdict=verdict,
            scope=self.scope,
            policy_id=self.policy.policy_id,
            reasons=reasons,
            duties=duties,
            deferred=tuple(dict.fromkeys(deferred)),
        )

    def _parties(self) -> tuple[Reason, ...]:
        """An agreement binds one assignee and one target; another one has no permission under it."""
        found = []
        assignee, target = self.facts.get("assignee"), self.facts.get("target")
        if self.policy.assignee is not None and self.policy.assignee != assignee:
            found.append(self._reason("policy", ODRL + "assignee", "assignee", assignee, None))
        if self.policy.target is not None and target is not None and self.policy.target != target:
            found.append(self._reason("policy", ODRL + "target", "target", target, None))
        return tuple(found)

    def _rule(self, rule: Rule, index: int) -> _Outcome:
        name = f"{rule.kind.value}[{index}]"
        applies = self._applies(rule)
        if applies is Truth.VIOLATED:
            return _Outcome(truth=Truth.VIOLATED)
        if applies is Truth.UNKNOWN:
            reason = self._reason(name, rule.action, "unknown-action", None, rule.kind)
            return _Outcome(truth=Truth.UNKNOWN, reasons=(reason,))
        if rule.assignee is not None and rule.assignee != self.facts.get("assignee"):
            return self._other_assignee(rule, name)
        parts = [self._constraint(part, rule.kind, name) for part in rule.constraints]
        outcome = _join(Logic.AND, parts)
        if outcome.truth is Truth.SATISFIED and rule.kind is RuleKind.PROHIBITION and not outcome.reasons:
            reason = self._reason(name, rule.action, "forbidden-action", None, rule.kind, truth=Truth.SATISFIED)
            return dataclasses.replace(outcome, reasons=(reason,))
        return outcome

    def _other_assignee(self, rule: Rule, name: str) -> _Outcome:
        asked = self.facts.get("assignee")
        # A prohibition for somebody else does not bind us; who nobody knows may be that somebody.
        truth = Truth.UNKNOWN if asked is None else Truth.VIOLATED
        reason = self._reason(name, ODRL + "assignee", "assignee", asked, rule.kind, truth=truth)
        return _Outcome(truth=truth, reasons=(reason,))

    def _applies(self, rule: Rule) -> Truth:
        """Whether the rule is about the action asked for: exactly, or about a broader one."""
        if rule.action not in _INCLUDED_IN or self.action not in _INCLUDED_IN:
            return Truth.UNKNOWN
        action: str | None = self.action
        while action is not None:
            if action == rule.action:
                return Truth.SATISFIED
            action = _INCLUDED_IN[action]
        # To forbid a part of what is asked is to forbid what is asked: we cannot tell which part will be done.
        narrower = rule.kind is RuleKind.PROHIBITION and _INCLUDED_IN[rule.action] == self.action
        return Truth.UNKNOWN if narrower else Truth.VIOLATED

    def _constraint(self, constraint: Constraint, kind: RuleKind, rule: str) -> _Outcome:
        if isinstance(constraint, Logical):
            return _join(constraint.logic, [self._constraint(part, kind, rule) for part in constraint.parts])
        operand = operand_for(constraint.left)
        if operand is not None and self.scope not in operand.binds:
            return _Outcome(truth=Truth.DEFERRED, deferred=(constraint.left,))
        fact = None if operand is None else operand.read(self.facts, self.now)
        truth = _compare(operand, constraint, fact, forbidding=kind is RuleKind.PROHIBITION)
        reason = Reason(
            rule=rule,
            operand=constraint.left,
            operator=constraint.operator_text,
            fact=_show(fact),
            required=constraint.right,
            truth=truth,
            kind=kind,
        )
        return _Outcome(truth=truth, reasons=(reason,))

    def _no_permission(self) -> Reason:
        return self._reason("policy", self.action, "no-permission", None, RuleKind.PERMISSION)

    def _reason(
        self, rule: str, operand: str, code: str, fact: object, kind: RuleKind | None, *, truth: Truth = Truth.UNKNOWN
    ) -> Reason:
        return Reason(
            rule=rule, operand=operand, operator="", fact=_show(fact), required=(), truth=truth, kind=kind, code=code
        )


def _compare(operand: Operand | None, constraint: Atomic, fact: object, *, forbidding: bool) -> Truth:
    if operand is None or constraint.operator is None or fact is None:
        return Truth.UNKNOWN
    question = Question(constraint=constraint, operator=constraint.operator, fact=fact, forbidding=forbidding)
    return operand.compare(question)


def _join(logic: Logic, parts: Sequence[_Outcome]) -> _Outcome:
    """Join parts; unknown weighs more than deferred, so that a doubt is never put off.

    ``andSequence`` asks that the parts hold one after the other; at one instant that is all of them.
    """
    truths = [part.truth for part in parts]
    joined = {Logic.AND: _and, Logic.AND_SEQUENCE: _and, Logic.OR: _or, Logic.XONE: _xone}[logic](truths)
    return _Outcome(
        truth=joined,
        reasons=_reasons(parts),
        deferred=tuple(name for part in parts for name in part.deferred),
    )


def _and(truths: Sequence[Truth]) -> Truth:
    for truth in (Truth.VIOLATED, Truth.UNKNOWN, Truth.DEFERRED):
        if truth in truths:
            return truth
    return Truth.SATISFIED


def _or(truths: Sequence[Truth]) -> Truth:
    for truth in (Truth.SATISFIED, Truth.UNKNOWN, Truth.DEFERRED):
        if truth in truths:
            return truth
    return Truth.VIOLATED


def _xone(truths: Sequence[Truth]) -> Truth:
    satisfied = sum(truth is Truth.SATISFIED for truth in truths)
    if satisfied > 1:
        return Truth.VIOLATED
    for truth in (Truth.UNKNOWN, Truth.DEFERRED):
        if truth in truths:
            return truth
    return Truth.SATISFIED if satisfied == 1 else Truth.VIOLATED


def _reasons(outcomes: Sequence[_Outcome]) -> tuple[Reason, ...]:
    """The reasons of several outcomes: what speaks loudest (violated, unknown) first."""
    found = [reason for outcome in outcomes for reason in outcome.reasons]
    return tuple(sorted(found, key=_weight))


def _weight(reason: Reason) -> int:
    harmless = Truth.VIOLATED if reason.kind is RuleKind.PROHIBITION else Truth.SATISFIED
    return 1 if reason.truth is harmless else 0


def _show(fact: object) -> str | None:
    if fact is None:
        return None
    if isinstance(fact, (set, frozenset, list, tuple)):
        fact = ", ".join(sorted(str(item) for item in fact))
    return str(fact)[:_LONGEST_FACT]


def required_facts(policy: Policy, scope: Scope) -> Mapping[str, str]:
    """Return the facts the policy needs at ``scope``: full IRI of the operand -> key in the facts."""
    needed: dict[str, str] = {}
    pending: list[Constraint] = [part for rule in policy.permissions + policy.prohibitions for part in rule.constraints]
    while pending:
        part = pending.pop()
        if isinstance(part, Logical):
            pending.extend(part.parts)
        elif (operand := operand_for(part.left)) is not None and scope in operand.binds:
            needed[part.left] = operand.fact
    return needed
