"""ODRL values after parsing: policies, rules and constraints under the DSP 2025-1 ODRL profile.

Names are full IRIs here, whatever the wire said (``use`` and ``odrl:use`` are both ``http://www.w3.org/ns/odrl/2/use``).
Source: ODRL Information Model 2.2; Dataspace Protocol 2025-1, ODRL profile.
"""

import dataclasses
import enum
from typing import TypeAlias

ODRL = "http://www.w3.org/ns/odrl/2/"
DPV = "https://w3id.org/dpv#"
ORCHARD = "https://w3id.org/orchard/"

Value: TypeAlias = "str | int | float | bool"


class Operator(enum.Enum):
    """The comparison operators of the profile."""

    EQ = "eq"
    NEQ = "neq"
    GT = "gt"
    GTEQ = "gteq"
    LT = "lt"
    LTEQ = "lteq"
    HAS_PART = "hasPart"
    IS_A = "isA"
    IS_ALL_OF = "isAllOf"
    IS_ANY_OF = "isAnyOf"
    IS_NONE_OF = "isNoneOf"
    IS_PART_OF = "isPartOf"


class Logic(enum.Enum):
    """How a logical constraint joins its parts."""

    AND = "and"
    AND_SEQUENCE = "andSequence"
    OR = "or"
    XONE = "xone"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Atomic:
    """``left operator right``; ``right`` is always a tuple, of one value unless the wire held a list.

    ``operator`` is None when the wire named an operator outside the profile (``operator_text`` keeps it): such a
    constraint is unknown, never dropped.
    """

    left: str
    operator: Operator | None
    operator_text: str
    right: tuple[Value, ...]
    right_is_list: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logical:
    """A logical constraint over one or more parts."""

    logic: Logic
    parts: tuple["Constraint", ...]


Constraint: TypeAlias = Atomic | Logical


class RuleKind(enum.Enum):
    """What a rule does."""

    PERMISSION = "permission"
    PROHIBITION = "prohibition"
    OBLIGATION = "obligation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A permission, a prohibition, or a duty (an obligation, or a permission's own duty)."""

    kind: RuleKind
    action: str
    constraints: tuple[Constraint, ...] = ()
    duties: tuple["Rule", ...] = ()
    assignee: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """An offer, an agreement or a set."""

    policy_id: str
    policy_type: str
    permissions: tuple[Rule, ...] = ()
    prohibitions: tuple[Rule, ...] = ()
    obligations: tuple[Rule, ...] = ()
    target: str | None = None
    assigner: str | None = None
    assignee: str | None = None


def short(iri: str) -> str:
    """Return the last part of an ODRL, DPV or Orchard name, or the IRI itself when it is somebody else's."""
    for namespace in (ODRL, ORCHARD):
        if iri.startswith(namespace):
            return iri.removeprefix(namespace)
    return iri
