"""The comparison operators over plain values: numbers, instants, durations, names and sets of names.

Each comparison answers satisfied, violated or unknown; a comparison that makes no sense (a name below a number) is
unknown. Source: ODRL Vocabulary 2.2, section 3.15 (constraint operators).
"""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from policies.decision import Truth
from policies.model import Operator, Value
from policies.operands.operand import Question

Order: TypeAlias = "Callable[[Value], float | None]"

_DURATION = re.compile(
    r"P(?:(?P<years>\d{1,4})Y)?(?:(?P<months>\d{1,4})M)?(?:(?P<weeks>\d{1,5})W)?(?:(?P<days>\d{1,6})D)?"
    r"(?:T(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,7})M)?(?:(?P<seconds>\d{1,9})S)?)?"
)
_LONGEST = 40
_ORDERED: dict[Operator, Callable[[float, float], bool]] = {
    Operator.EQ: lambda left, right: left == right,
    Operator.NEQ: lambda left, right: left != right,
    Operator.GT: lambda left, right: left > right,
    Operator.GTEQ: lambda left, right: left >= right,
    Operator.LT: lambda left, right: left < right,
    Operator.LTEQ: lambda left, right: left <= right,
}


def truth(value: bool) -> Truth:  # noqa: FBT001 - the one argument is the point
    """Return satisfied or violated."""
    return Truth.SATISFIED if value else Truth.VIOLATED


def ordered(order: Order) -> Callable[[Question], Truth]:
    """Return a comparison of values on a line; ``order`` gives a value's place on it, or None when it has none."""

    def compare(question: Question) -> Truth:
        relation, right = _ORDERED.get(question.operator), question.constraint.right
        left = order(question.fact) if isinstance(question.fact, (str, int, float)) else None
        if relation is None or left is None or len(right) != 1:
            return Truth.UNKNOWN
        place = order(right[0])
        return Truth.UNKNOWN if place is None else truth(relation(left, place))

    return compare


def number(value: Value) -> float | None:
    """Return a finite number's place on the line; text is read when it is a plain number."""
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def instant(value: Value) -> float | None:
    """Return an ISO 8601 instant's place on the line, seconds since 1970; a date alone is its midnight in UTC."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def seconds(value: Value) -> float | None:
    """Return the length of an ISO 8601 duration in seconds (a year is 365 days, a month 30)."""
    if isinstance(value, str):
        length = duration(value)
        return None if length is None else length.total_seconds()
    return number(value)


def duration(text: str) -> timedelta | None:
    """Return the length of an ISO 8601 duration, None when it is not one."""
    found = _DURATION.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None or text in ("P", "PT") or text.endswith("T"):
        return None
    part = {name: int(value) for name, value in found.groupdict(default="0").items()}
    return timedelta(
        days=part["years"] * 365 + part["months"] * 30 + part["weeks"] * 7 + part["days"],
        hours=part["hours"],
        minutes=part["minutes"],
        seconds=part["seconds"],
    )


def names(question: Question) -> Truth:
    """Compare a name, or a set of names, as a set against the right operand."""
    left = _name_set(question.fact)
    right = frozenset(value for value in question.constraint.right if isinstance(value, str))
    if left is None or not right or len(right) != len(set(question.constraint.right)):
        return Truth.UNKNOWN
    many = {
        Operator.IS_ANY_OF: bool(left & right),
        Operator.IS_NONE_OF: not left & right,
        Operator.IS_ALL_OF: right <= left,
        Operator.HAS_PART: right <= left,
        Operator.IS_PART_OF: left <= right,
        Operator.IS_A: left <= right,
    }
    if question.operator in many:
        return truth(many[question.operator])
    if len(right) != 1 or question.operator not in (Operator.EQ, Operator.NEQ):
        return Truth.UNKNOWN
    return truth((left == right) == (question.operator is Operator.EQ))


def kinds(is_a: Callable[[str, str], Truth]) -> Callable[[Question], Truth]:
    """Return a comparison of names in a hierarchy.

    ``eq`` and ``isAnyOf`` permit only the exact name, ``isA`` and ``isPartOf`` also what lies below it. Where a match
    takes away (any of them under a prohibition, ``neq`` and ``isNoneOf`` under a permission) what lies below counts too.
    """

    def compare(question: Question) -> Truth:
        right = [value for value in question.constraint.right if isinstance(value, str)]
        if not isinstance(question.fact, str) or not right or len(right) != len(question.constraint.right):
            return Truth.UNKNOWN
        return _kind(question, question.fact, right, is_a)

    return compare


def _kind(question: Question, fact: str, right: list[str], is_a: Callable[[str, str], Truth]) -> Truth:
    operator = question.operator
    if operator in (Operator.IS_A, Operator.IS_PART_OF):
        return _any([is_a(fact, name) for name in right])
    negative = operator in (Operator.NEQ, Operator.IS_NONE_OF)
    if not negative and operator not in (Operator.EQ, Operator.IS_ANY_OF):
        return Truth.UNKNOWN
    if operator in (Operator.EQ, Operator.NEQ) and len(right) != 1:
        return Truth.UNKNOWN
    widened = negative != question.forbidding
    match = _any([is_a(fact, name) if widened else truth(fact == name) for name in right])
    return _opposite(match) if negative else match


def _any(values: list[Truth]) -> Truth:
    if Truth.SATISFIED in values:
        return Truth.SATISFIED
    return Truth.UNKNOWN if Truth.UNKNOWN in values else Truth.VIOLATED


def _opposite(value: Truth) -> Truth:
    return {Truth.SATISFIED: Truth.VIOLATED, Truth.VIOLATED: Truth.SATISFIED}.get(value, value)


def _name_set(fact: object) -> frozenset[str] | None:
    if isinstance(fact, str):
        return frozenset({fact})
    if isinstance(fact, (list, tuple, set, frozenset)) and all(isinstance(item, str) for item in fact):
        return frozenset(fact)
    return None
