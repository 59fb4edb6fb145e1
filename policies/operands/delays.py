"""``odrl:delayPeriod`` (time since the agreement, to have passed first) and ``odrl:meteredTime`` (time used so far).

Facts: ``agreed_at`` (aware datetime) and ``used_seconds``. Both bind once there is an agreement to use.
Source: ODRL Vocabulary 2.2, section 3.16.
"""

from policies.model import ODRL
from policies.operands.compare import ordered, seconds
from policies.operands.operand import Operand, reading
from policies.operands.times import since_fact
from policies.scopes import Scope, since

OPERANDS = (
    Operand(
        iri=ODRL + "delayPeriod",
        binds=since(Scope.TRANSFER),
        read=since_fact("agreed_at"),
        compare=ordered(seconds),
        fact="agreed_at",
    ),
    Operand(
        iri=ODRL + "meteredTime",
        binds=since(Scope.TRANSFER),
        read=reading("used_seconds"),
        compare=ordered(seconds),
        fact="used_seconds",
    ),
)
