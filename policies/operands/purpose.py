"""``odrl:purpose``: what the data is wanted for, one DPV purpose. Known from negotiation on (the fact ``purpose``)."""

from policies.hierarchy import purpose_is_a
from policies.model import ODRL
from policies.operands.compare import kinds
from policies.operands.operand import Operand, reading
from policies.scopes import Scope, since

OPERANDS = (
    Operand(
        iri=ODRL + "purpose",
        binds=since(Scope.NEGOTIATION),
        read=reading("purpose"),
        compare=kinds(purpose_is_a),
        fact="purpose",
    ),
)
