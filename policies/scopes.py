"""The five moments at which a policy is evaluated, in the order in which an exchange meets them.

What is known grows along the way: at the catalog we know the peer and the time; at negotiation also the purpose asked
for; at transfer the agreement and the training plan; at each round the consents and the cohort; at release the result.
An operand declares the scopes it binds in; at any other scope it is *deferred*, and the decision lists it.
"""

import enum


class Scope(enum.Enum):
    """A moment of evaluation."""

    CATALOG = "catalog"
    NEGOTIATION = "negotiation"
    TRANSFER = "transfer"
    ROUND = "round"
    RELEASE = "release"


_ORDER = tuple(Scope)

EVERYWHERE: frozenset[Scope] = frozenset(_ORDER)


def since(scope: Scope) -> frozenset[Scope]:
    """Return ``scope`` and every later one."""
    return frozenset(_ORDER[_ORDER.index(scope) :])
