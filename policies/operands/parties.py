"""Who asks: ``odrl:recipient`` and our ``assignee`` (a DID), ``role`` and ``organisation`` (membership claims).

The peer is authenticated before anything else happens, so these bind everywhere. ``odrl:spatial`` is where the use
happens (an ISO 3166 code), which the peer says when it negotiates.
"""

from policies.hierarchy import place_is_in
from policies.model import ODRL, ORCHARD
from policies.operands.compare import kinds, names
from policies.operands.operand import Operand, reading
from policies.scopes import EVERYWHERE, Scope, since

OPERANDS = (
    Operand(iri=ODRL + "recipient", binds=EVERYWHERE, read=reading("assignee"), compare=names, fact="assignee"),
    Operand(iri=ORCHARD + "assignee", binds=EVERYWHERE, read=reading("assignee"), compare=names, fact="assignee"),
    Operand(iri=ORCHARD + "role", binds=EVERYWHERE, read=reading("roles"), compare=names, fact="roles"),
    Operand(
        iri=ORCHARD + "organisation",
        binds=EVERYWHERE,
        read=reading("organisation"),
        compare=names,
        fact="organisation",
    ),
    Operand(
        iri=ODRL + "spatial",
        binds=since(Scope.NEGOTIATION),
        read=reading("spatial"),
        compare=kinds(place_is_in),
        fact="spatial",
    ),
)
