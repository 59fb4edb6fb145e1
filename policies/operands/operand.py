"""What a left operand is: its name, the fact it needs, the scopes it binds in, and how it compares."""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeAlias

from policies.decision import Truth
from policies.model import Atomic, Operator
from policies.scopes import Scope

Facts: TypeAlias = Mapping[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """One comparison to make.

    Attributes:
        constraint: the atomic constraint; its operator is one of the profile's.
        operator: that operator.
        fact: the value the operand read from the facts.
        forbidding: True under a prohibition, where doubt about kinds must widen and not narrow.
    """

    constraint: Atomic
    operator: Operator
    fact: object
    forbidding: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operand:
    """A left operand this connector understands.

    Attributes:
        iri: its full name.
        binds: the scopes at which it is compared; elsewhere it is deferred.
        read: takes the facts and now, returns the value to compare, or None for unknown.
        compare: answers a question; never raises on a hostile right operand.
        fact: the key of the fact it reads, for documentation and error messages.
    """

    iri: str
    binds: frozenset[Scope]
    read: Callable[[Facts, datetime], object]
    compare: Callable[[Question], Truth]
    fact: str


def reading(key: str) -> Callable[[Facts, datetime], object]:
    """Return a reader of one fact."""

    def read(facts: Facts, _now: datetime) -> object:
        return facts.get(key)

    return read
