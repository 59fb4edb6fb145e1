"""What is computed: algorithm class and digest, kind of output, privacy budget. Known once there is a training plan.

``orchard:privacyBudget lteq E`` compares what the dataset would have spent after this round (``epsilon_spent``). A plan
that adds no noise has no bound at all: its fact is :data:`WITHOUT_BOUND`, which lies above every number.
"""

import math

from policies.model import ORCHARD, Value
from policies.operands.compare import names, number, ordered
from policies.operands.operand import Operand, reading
from policies.scopes import Scope, since

WITHOUT_BOUND = "more than any budget (the plan adds no noise)"


def _spent(value: Value) -> float | None:
    return math.inf if value == WITHOUT_BOUND else number(value)


OPERANDS = (
    *(
        Operand(iri=ORCHARD + name, binds=since(Scope.TRANSFER), read=reading(fact), compare=names, fact=fact)
        for name, fact in (
            ("algorithmClass", "algorithm_class"),
            ("algorithmDigest", "algorithm_digest"),
            ("outputKind", "output_kind"),
            ("aggregation", "aggregation"),
        )
    ),
    Operand(
        iri=ORCHARD + "privacyBudget",
        binds=since(Scope.ROUND),
        read=reading("epsilon_spent"),
        compare=ordered(_spent),
        fact="epsilon_spent",
    ),
)
