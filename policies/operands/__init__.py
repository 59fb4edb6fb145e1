"""The registry of left operands. A new operand is one file here with ``OPERANDS``; nothing else names it."""

import importlib
import pkgutil
from types import MappingProxyType

from policies.operands.operand import Operand


def _found() -> dict[str, Operand]:
    registry: dict[str, Operand] = {}
    for file in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        operands: tuple[Operand, ...] = getattr(importlib.import_module(f"{__name__}.{file.name}"), "OPERANDS", ())
        for operand in operands:
            if operand.iri in registry:
                raise ValueError(f"the operand {operand.iri} is defined twice")
            registry[operand.iri] = operand
    return registry


REGISTRY = MappingProxyType(_found())


def operand_for(iri: str) -> Operand | None:
    """Return the operand of that full name, None when this connector does not know it."""
    return REGISTRY.get(iri)
