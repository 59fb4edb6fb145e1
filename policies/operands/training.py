"""What is computed: algorithm class and digest, kind of output, privacy budget. Known once there is a training plan."""

from policies.model import ORCHARD
from policies.operands.compare import names, number, ordered
from policies.operands.operand import Operand, reading
from policies.scopes import Scope, since

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
        compare=ordered(number),
        fact="epsilon_spent",
    ),
)
