"""``odrl:dateTime`` (now), ``odrl:elapsedTime`` since the agreement and ``odrl:timeInterval`` since the last use.

``dateTime`` binds everywhere: an offer outside its validity is not even shown. The two lengths need the facts
``agreed_at`` and ``last_used_at`` (aware datetimes) and bind once there is an agreement to use.
"""

from collections.abc import Callable
from datetime import datetime

from policies.model import ODRL
from policies.operands.compare import instant, ordered, seconds
from policies.operands.operand import Facts, Operand
from policies.scopes import EVERYWHERE, Scope, since


def _now(_facts: Facts, now: datetime) -> object:
    return now.isoformat()


def since_fact(key: str) -> Callable[[Facts, datetime], object]:
    """Return a reader of the seconds since an aware datetime among the facts; another value is unknown."""

    def read(facts: Facts, now: datetime) -> object:
        start = facts.get(key)
        if not isinstance(start, datetime) or start.tzinfo is None:
            return None
        return (now - start).total_seconds()

    return read


OPERANDS = (
    Operand(iri=ODRL + "dateTime", binds=EVERYWHERE, read=_now, compare=ordered(instant), fact="now"),
    Operand(
        iri=ODRL + "elapsedTime",
        binds=since(Scope.TRANSFER),
        read=since_fact("agreed_at"),
        compare=ordered(seconds),
        fact="agreed_at",
    ),
    Operand(
        iri=ODRL + "timeInterval",
        binds=since(Scope.TRANSFER),
        read=since_fact("last_used_at"),
        compare=ordered(seconds),
        fact="last_used_at",
    ),
)
