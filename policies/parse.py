"""A JSON policy becomes an ODRL value: strict about shape, bounded in size and depth, silent about meaning.

Meaning is :mod:`policies.evaluate`'s business: an operand, an operator or an action that nobody here knows is kept, so
that it can deny. Only what is not a policy at all is refused. Source: Dataspace Protocol 2025-1, ODRL profile.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from policies.errors import PolicyFormatError
from policies.model import ODRL, Atomic, Constraint, Logic, Logical, Operator, Policy, Rule, RuleKind, Value

MAX_RULES = 64
MAX_CONSTRAINTS = 512
MAX_DEPTH = 8
MAX_TEXT = 4096
MAX_VALUES = 1000

# A list in a set of references is three.
_WRAPPERS = 3

_LOGIC = {logic.value: logic for logic in Logic}
_OPERATORS = {ODRL + operator.value: operator for operator in Operator}
# The DSP schema spells one operator in two ways.
_OPERATORS[ODRL + "term-lteq"] = Operator.LTEQ
_PROHIBIT = ("prohibit", "odrl:prohibit", ODRL + "prohibit")
_TYPES = ("Offer", "Agreement", "Set", "Policy")
# ODRL 2.2 knows more than the Dataspace Protocol's profile. These change what a rule means, so a policy that uses one
# is refused; to read on without them would allow more than was written.
_BEYOND_POLICY = ("inheritFrom", "inheritRelation", "inheritAllowed")
_BEYOND_RULE = ("refinement", "remedy", "consequence", "failure", "relation", "output", "function", "source")
_BEYOND_CONSTRAINT = ("unit", "status", "rightOperandReference", "refinement")


def parse_policy(document: object) -> Policy:
    """Return the policy that a JSON document (compacted with the DSP context) describes.

    Raises:
        PolicyFormatError: it is not a policy, or larger or deeper than we read (64 rules, 512 constraints, 8 levels).
    """
    body = _object(document, "policy")
    _refuse(body, _BEYOND_POLICY, "policy")
    if body.get("conflict", body.get("odrl:conflict", "prohibit")) not in _PROHIBIT:
        raise PolicyFormatError("conflict: in this connector a prohibition always wins")
    reader = _Reader(_party(body, "target"))
    policy = Policy(
        policy_id=_text(body.get("@id", ""), "@id"),
        policy_type=_policy_type(body.get("@type", "Offer")),
        permissions=reader.rules(body, RuleKind.PERMISSION),
        prohibitions=reader.rules(body, RuleKind.PROHIBITION),
        obligations=reader.rules(body, RuleKind.OBLIGATION),
        target=_party(body, "target"),
        assigner=_party(body, "assigner"),
        assignee=_party(body, "assignee"),
    )
    if not (policy.permissions or policy.prohibitions):
        raise PolicyFormatError("a policy needs at least one permission or prohibition")
    return policy


class _Reader:
    """Reads rules and counts what it has read, so that a hostile document ends early."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._constraints = 0
        self._rules = 0

    def rules(self, body: Mapping[str, Any], kind: RuleKind) -> tuple[Rule, ...]:
        return tuple(self._rule(item, kind) for item in _items(body, kind.value))

    def _rule(self, item: object, kind: RuleKind) -> Rule:
        self._rules += 1
        if self._rules > MAX_RULES:
            raise PolicyFormatError(f"more than {MAX_RULES} rules")
        body = _object(item, kind.value)
        _refuse(body, _BEYOND_RULE, kind.value)
        if _party(body, "target") not in (None, self._target):
            raise PolicyFormatError(f"a {kind.value} is about another target than its policy")
        duties: tuple[Rule, ...] = ()
        if kind is RuleKind.PERMISSION:
            duties = tuple(self._rule(duty, RuleKind.OBLIGATION) for duty in _items(body, "duty"))
        elif body.get("duty") or body.get("odrl:duty"):
            raise PolicyFormatError(f"a {kind.value} has no duty of its own")
        return Rule(
            kind=kind,
            action=_action(body),
            constraints=tuple(self._constraint(part, 1) for part in _items(body, "constraint")),
            duties=duties,
            assignee=_party(body, "assignee"),
        )

    def _constraint(self, item: object, depth: int) -> Constraint:
        self._constraints += 1
        if self._constraints > MAX_CONSTRAINTS or depth > MAX_DEPTH:
            raise PolicyFormatError(f"more than {MAX_CONSTRAINTS} constraints or {MAX_DEPTH} levels of them")
        body = _object(item, "constraint")
        _refuse(body, _BEYOND_CONSTRAINT, "constraint")
        joined = [(key, logic) for key, logic in _LOGIC.items() if key in body or f"odrl:{key}" in body]
        if not joined:
            return _atomic(body)
        if len(joined) > 1 or "leftOperand" in body:
            raise PolicyFormatError("a constraint is either atomic or exactly one of and, andSequence, or, xone")
        key, logic = joined[0]
        parts = tuple(self._constraint(part, depth + 1) for part in _items(body, key))
        if not parts:
            raise PolicyFormatError(f"an empty {key}")
        return Logical(logic=logic, parts=parts)


def _atomic(body: Mapping[str, Any]) -> Atomic:
    if "leftOperand" not in body or "operator" not in body or "rightOperand" not in body:
        raise PolicyFormatError("an atomic constraint has leftOperand, operator and rightOperand")
    operator = _iri(body["operator"], "operator")
    right = _plain(body["rightOperand"])
    values = tuple(right) if isinstance(right, list) else (right,)
    return Atomic(
        left=_iri(body["leftOperand"], "leftOperand"),
        operator=_OPERATORS.get(operator),
        operator_text=operator,
        right=tuple(_value(value) for value in values),
        right_is_list=isinstance(right, list),
    )


def _plain(value: object, depth: int = 0) -> object:
    """Take the value out of JSON-LD's wrappers: ``@value``, ``@id``, ``@list`` and ``@set``."""
    if depth > _WRAPPERS:
        raise PolicyFormatError("a right operand is wrapped too deep")
    if isinstance(value, Mapping):
        for key in ("@value", "@id", "@list", "@set"):
            if key in value:
                return _plain(value[key], depth + 1)
        raise PolicyFormatError("a right operand is a value, a reference or a list of them")
    if isinstance(value, list):
        if len(value) > MAX_VALUES:
            raise PolicyFormatError(f"a right operand lists more than {MAX_VALUES} values")
        return [_plain(item, depth + 1) for item in value]
    return value


def _value(value: object) -> Value:
    if isinstance(value, str):
        return _text(value, "rightOperand")
    if isinstance(value, (bool, int, float)):
        return value
    raise PolicyFormatError("a right operand is text, a number, true or false, or a list of them")


def _refuse(body: Mapping[str, Any], names: Iterable[str], place: str) -> None:
    for name in names:
        if name in body or f"odrl:{name}" in body or ODRL + name in body:
            raise PolicyFormatError(f"{place}: {name} is outside the profile of ODRL that this connector reads")


def _items(body: Mapping[str, Any], key: str) -> Iterator[object]:
    value = body.get(key, body.get(f"odrl:{key}"))
    if value is None:
        return
    if isinstance(value, Mapping) and "@list" in value:
        value = value["@list"]
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _action(body: Mapping[str, Any]) -> str:
    value = body.get("action", body.get("odrl:action"))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        _refuse(value, _BEYOND_RULE, "action")
    return _iri(value, "action")


def _iri(value: object, name: str) -> str:
    if isinstance(value, Mapping):
        value = value.get("@id")
    text = _text(value, name)
    if not text:
        raise PolicyFormatError(f"{name} is empty")
    if text.startswith("odrl:"):
        return ODRL + text.removeprefix("odrl:")
    return text if ":" in text else ODRL + text


def _party(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key, body.get(f"odrl:{key}"))
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = value.get("@id", value.get("uid"))
    return _text(value, key)


def _policy_type(value: object) -> str:
    text = _text(value, "@type").removeprefix(ODRL).removeprefix("odrl:")
    if text not in _TYPES:
        raise PolicyFormatError(f"@type must be one of {', '.join(_TYPES)}")
    return text


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PolicyFormatError(f"{name} must be an object")
    return cast("Mapping[str, Any]", value)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise PolicyFormatError(f"{name} must be text")
    if len(value) > MAX_TEXT:
        raise PolicyFormatError(f"{name} is longer than {MAX_TEXT} characters")
    return value
