"""Consent and cohort: what a provider knows about its own learners, and only when a round begins.

``orchard:consent eq "granted"`` holds when every subject whose rows the round would read has granted (the fact
``consent`` is then ``granted``). ``orchard:cohortFloor gteq N`` compares the number of such subjects (``cohort_size``).
Before a round neither exists: a job may be agreed while consents are still being collected. The size binds at release
too, because a model of too few people must not leave; a withdrawal between the last round and release must not block it.
"""

from policies.model import ORCHARD
from policies.operands.compare import names, number, ordered
from policies.operands.operand import Operand, reading
from policies.scopes import Scope

CONSENT = ORCHARD + "consent"
COHORT_FLOOR = ORCHARD + "cohortFloor"

OPERANDS = (
    Operand(iri=CONSENT, binds=frozenset({Scope.ROUND}), read=reading("consent"), compare=names, fact="consent"),
    Operand(
        iri=COHORT_FLOOR,
        binds=frozenset({Scope.ROUND, Scope.RELEASE}),
        read=reading("cohort_size"),
        compare=ordered(number),
        fact="cohort_size",
    ),
)
