"""``odrl:count`` (uses so far, this one included) and ``odrl:payAmount`` (paid so far): known when the use begins."""

from policies.model import ODRL
from policies.operands.compare import number, ordered
from policies.operands.operand import Operand, reading
from policies.scopes import Scope, since

OPERANDS = tuple(
    Operand(iri=ODRL + name, binds=since(Scope.TRANSFER), read=reading(fact), compare=ordered(number), fact=fact)
    for name, fact in (("count", "use_count"), ("payAmount", "paid_amount"))
)
