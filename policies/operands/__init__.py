"""The registry of left operands. A new operand is one file with ``OPERANDS`` and one line here."""

from types import MappingProxyType

from policies.operands import consent, counting, parties, purpose, times, training
from policies.operands.operand import Operand

REGISTRY = MappingProxyType(
    {
        operand.iri: operand
        for module in (consent, counting, parties, purpose, times, training)
        for operand in module.OPERANDS
    }
)


def operand_for(iri: str) -> Operand | None:
    """Return the operand of that full name, None when this connector does not know it."""
    return REGISTRY.get(iri)
