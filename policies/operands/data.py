"""What is read and how finely: ``orchard:dataCategory`` (the columns' categories) and ``orchard:granularity``.

Facts: ``data_categories`` (a set of DPV-PD or other IRIs) and ``granularity`` (``provider`` or ``learner``), known once
there is a training plan.
"""

from policies.model import ORCHARD
from policies.operands.compare import names
from policies.operands.operand import Operand, reading
from policies.scopes import Scope, since

OPERANDS = tuple(
    Operand(iri=ORCHARD + name, binds=since(Scope.TRANSFER), read=reading(fact), compare=names, fact=fact)
    for name, fact in (("dataCategory", "data_categories"), ("granularity", "granularity"))
)
