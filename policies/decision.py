"""What an evaluation answers, and how a person would say it."""

import dataclasses
import enum

from policies.model import ODRL, Operator, Rule, RuleKind, Value, short
from policies.scopes import Scope


class Truth(enum.Enum):
    """The value of a constraint at one scope.

    ``DEFERRED`` is not a fourth opinion about the world: the operand declares that it binds at other scopes.
    """

    SATISFIED = "satisfied"
    VIOLATED = "violated"
    UNKNOWN = "unknown"
    DEFERRED = "deferred"


class Verdict(enum.Enum):
    """The answer."""

    PERMIT = "permit"
    DENY = "deny"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reason:
    """One constraint (or one refusal that no policy can lift), what was asked, and what was required.

    Attributes:
        rule: which rule, e.g. ``permission[0]``, ``prohibition[2]``, ``obligation[1]`` or ``law``.
        operand: full IRI of the left operand, or of the action.
        operator: the operator as text, empty where there is none.
        fact: what was known, None when nothing was.
        required: the right operand.
        truth: what the comparison gave.
        kind: the kind of rule, None for the law and for policy-wide checks.
        code: stable name of the kind of reason.
    """

    rule: str
    operand: str
    operator: str
    fact: str | None
    required: tuple[Value, ...]
    truth: Truth
    kind: RuleKind | None
    code: str = "constraint"

    def __str__(self) -> str:
        """Say it in one sentence fit for a DSP ``reason`` and for a page."""
        return _sentence(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """Verdict, the reasons for it, the duties that come with a permission, and what is left for later scopes.

    Attributes:
        verdict: permit or deny.
        scope: where it was asked.
        policy_id: which policy was evaluated.
        reasons: everything that was compared and mattered; for a denial, what caused it comes first.
        duties: what the assignee takes on (obligations, and the duties of the permission that applied).
        deferred: names of the operands that bind at a later scope; never empty silently.
    """

    verdict: Verdict
    scope: Scope
    policy_id: str
    reasons: tuple[Reason, ...] = ()
    duties: tuple[Rule, ...] = ()
    deferred: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the verdict is to permit."""
        return self.verdict is Verdict.PERMIT

    @property
    def refusals(self) -> tuple[str, ...]:
        """The sentences of the reasons that deny; empty for a permission."""
        if self.allowed:
            return ()
        return tuple(str(reason) for reason in self.reasons if not _harmless(reason))


_WORDS = {
    Operator.EQ: "only",
    Operator.NEQ: "anything but",
    Operator.GT: "only more than",
    Operator.GTEQ: "only at least",
    Operator.LT: "only less than",
    Operator.LTEQ: "only at most",
    Operator.HAS_PART: "only what includes",
    Operator.IS_A: "only kinds of",
    Operator.IS_ALL_OF: "only all of",
    Operator.IS_ANY_OF: "only one of",
    Operator.IS_NONE_OF: "none of",
    Operator.IS_PART_OF: "only what is part of",
}
_NAMES = {ODRL + operator.value: words for operator, words in _WORDS.items()}


def describe(decision: Decision) -> list[str]:
    """Return the decision as sentences: the verdict, each reason, each duty, and what is checked later."""
    verb = "allows" if decision.allowed else "does not allow"
    lines = [f"At {decision.scope.value}, policy {decision.policy_id or '(no id)'} {verb} this use."]
    lines += [str(reason) for reason in decision.reasons]
    for duty in decision.duties:
        limits = "; ".join(_duty_limit(part) for part in duty.constraints)
        lines.append(f"Duty: {short(duty.action)}" + (f" ({limits})" if limits else "") + ".")
    if decision.deferred:
        lines.append("Checked later: " + ", ".join(short(name) for name in decision.deferred) + ".")
    return lines


def _duty_limit(part: object) -> str:
    left, operator = getattr(part, "left", None), getattr(part, "operator_text", "")
    if left is None:
        return "see the policy"
    values = ", ".join(str(value) for value in getattr(part, "right", ()))
    return f"{short(left)} {short(operator)} {values}"


def _harmless(reason: Reason) -> bool:
    """A comparison that helped, or a prohibition that did not apply."""
    if reason.truth is Truth.DEFERRED:
        return True
    if reason.kind is RuleKind.PROHIBITION:
        return reason.truth is Truth.VIOLATED
    return reason.truth is Truth.SATISFIED


def _sentence(reason: Reason) -> str:
    name = short(reason.operand)
    if reason.code != "constraint":
        return _special(reason, name)
    required = " or ".join(_show(value) for value in reason.required)
    words = _NAMES.get(reason.operator, f"({short(reason.operator)})")
    asked = "nothing is known" if reason.fact is None else f"asked {reason.fact}"
    if reason.truth is Truth.UNKNOWN:
        return f"{name}: {asked}, and this connector cannot tell whether {short(reason.operator)} {required} holds"
    if reason.truth is Truth.DEFERRED:
        return f"{name}: {short(reason.operator)} {required} is checked at a later step"
    if reason.kind is RuleKind.PROHIBITION:
        verb = "forbids" if reason.truth is Truth.SATISFIED else "does not forbid this; it forbids"
        return f"{name}: {asked}, the offer {verb} {words.removeprefix('only ')} {required}"
    return f"{name}: {asked}, the offer allows {words} {required}"


def _special(reason: Reason, name: str) -> str:
    sentences = {
        "no-permission": "the offer holds no permission for this action",
        "unknown-action": f"{name}: {reason.rule} names an action this connector does not know",
        "unknown-duty": f"{name}: {reason.rule} asks for a duty this connector cannot fulfil",
        "forbidden-action": f"{name}: the offer forbids this action",
        "assignee": f"assignee: asked {reason.fact or 'by nobody known'}, the policy is made out to another party",
        "target": f"target: asked {reason.fact}, the policy is for another dataset",
        "emotion-inference": "inferring emotions of learners is forbidden in education (AI Act, article 5(1)(f))",
        "standing": str(reason.fact),
        "malformed": f"the policy cannot be read: {reason.fact}",
    }
    return sentences.get(reason.code, f"{name}: {reason.code}")


def _show(value: Value) -> str:
    return str(value)
