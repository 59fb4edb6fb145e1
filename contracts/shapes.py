"""Checks of the JSON inside a DSP message: limits, required texts, ODRL rule shapes, data addresses.

Everything here refuses with ``MalformedMessageError`` and names the field, never the value. The ODRL shapes follow the
specification's ODRL profile; a single object is read as a list of one, as JSON-LD compaction may write it.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from contracts.errors import MalformedMessageError
from contracts.messages import DataAddress, Rules
from policies.contexts import DSP_CONTEXT

CONTEXT: Final = DSP_CONTEXT
ORCHARD: Final = "https://w3id.org/orchard/"
MAX_DEPTH: Final = 64
MAX_TEXT: Final = 2048
# Ids are indexed, and an index entry of PostgreSQL holds 2,704 bytes: two ids of four-byte characters just fit.
MAX_ID: Final = 300
MAX_RULES: Final = 200
SIGNATURE_PARTS: Final = ("alg", "kid", "value")
_LOGICAL: Final = ("and", "andSequence", "or", "xone")


def json_object(raw: bytes, limit: int) -> dict[str, Any]:
    """Return the JSON object in ``raw``, its size, depth, texts and numbers within what can be stored.

    An array of one object is that object: expanded JSON-LD is written so.

    Raises:
        MalformedMessageError: it is none.
    """
    if len(raw) > limit:
        raise MalformedMessageError(f"the body is larger than {limit} bytes")
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError("the body is not JSON") from error
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        raise MalformedMessageError("the body must be a JSON object")
    _check_tree(body)
    return body


def text(value: object, field: str) -> str:
    """Return a non-empty text of at most 2048 characters, or refuse."""
    if isinstance(value, Mapping):
        value = value.get("@id") if set(value) == {"@id"} else value.get("@value")
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise MalformedMessageError(f"{field} must be a non-empty text of at most {MAX_TEXT} characters")
    return value


def identifier(value: object, field: str) -> str:
    """Return an id: a non-empty text of at most 300 printable characters, or refuse."""
    found = text(value, field)
    if len(found) > MAX_ID or not found.isprintable():
        raise MalformedMessageError(f"{field} must be at most {MAX_ID} printable characters")
    return found


def optional_identifier(value: object, field: str) -> str | None:
    """Return an id or ``None`` when it is absent, or refuse."""
    return None if value is None else identifier(value, field)


def optional_text(value: object, field: str) -> str | None:
    """Return a text or ``None`` when it is absent, or refuse."""
    return None if value is None else text(value, field)


def mapping(value: object, field: str) -> Mapping[str, Any]:
    """Return a JSON object, or refuse."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        raise MalformedMessageError(f"{field} must be an object")
    return value


def filters(value: object) -> tuple[Mapping[str, Any], ...]:
    """Return the filter objects of a catalog request; an empty object or list is no filter."""
    return tuple(entry for entry in _listed(value, "filter") if entry)


def reasons(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the reasons of a termination, suspension or error as texts; objects with @value are read as their value."""
    value = body.get("reason")
    entries = value if isinstance(value, list) else [] if value is None else [value]
    found = (entry.get("@value") if isinstance(entry, Mapping) else entry for entry in entries)
    return tuple(entry[:MAX_TEXT] for entry in found if isinstance(entry, str) and entry)


def rules(policy: Mapping[str, Any]) -> Rules:
    """Return the rules of an ODRL policy, each checked; at least a permission or a prohibition must be there."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("permission", "prohibition", "obligation"):
        entries = _listed(policy.get(name), name)
        if entries:
            found[name] = [_rule(entry, name) for entry in entries]
    if "permission" not in found and "prohibition" not in found:
        raise MalformedMessageError("a policy needs a permission or a prohibition")
    if sum(map(len, found.values())) > MAX_RULES:
        raise MalformedMessageError(f"a policy may hold at most {MAX_RULES} rules")
    return found


def signature(value: object) -> dict[str, str] | None:
    """Return a signature block (alg, kid, value), or ``None`` when it is absent."""
    if value is None:
        return None
    block = mapping(value, "signature")
    # Participants of before wrote the bare names, which mean nothing in JSON-LD.
    return {name: text(block.get(ORCHARD + name, block.get(name)), f"signature {name}") for name in SIGNATURE_PARTS}


def optional_data_address(body: Mapping[str, Any]) -> DataAddress | None:
    """Return the message's data address, or ``None`` when it has none."""
    value = body.get("dataAddress")
    return None if value is None else data_address(mapping(value, "dataAddress"))


def data_address(document: Mapping[str, Any]) -> DataAddress:
    """Return a data address; names and values of endpoint properties must be texts."""
    properties = []
    for entry in _listed(document.get("endpointProperties"), "endpointProperties"):
        value = entry.get("value")
        if not isinstance(value, str):
            raise MalformedMessageError("an endpoint property's value must be a text")
        properties.append((text(entry.get("name"), "endpoint property name"), value))
    return DataAddress(
        endpoint_type=text(document.get("endpointType"), "endpointType"),
        endpoint=optional_text(document.get("endpoint"), "endpoint"),
        properties=tuple(properties),
    )


def _rule(rule: Mapping[str, Any], name: str) -> dict[str, Any]:
    if "target" in rule:
        raise MalformedMessageError(f"a {name} must not repeat target")
    checked = dict(rule)
    checked["action"] = text(rule.get("action"), f"{name} action")
    constraints = [_constraint(entry) for entry in _listed(rule.get("constraint"), "constraint")]
    checked.pop("constraint", None)
    if constraints:
        checked["constraint"] = constraints
    return checked


def _constraint(constraint: Mapping[str, Any]) -> dict[str, Any]:
    logical = [name for name in _LOGICAL if name in constraint]
    if logical:
        if len(logical) > 1:
            raise MalformedMessageError("a logical constraint has exactly one operator")
        entries = _listed(constraint[logical[0]], logical[0])
        return {**constraint, logical[0]: [_constraint(entry) for entry in entries]}
    if "rightOperand" not in constraint:
        raise MalformedMessageError("a constraint needs a rightOperand")
    return {
        **constraint,
        "leftOperand": text(constraint.get("leftOperand"), "leftOperand"),
        "operator": text(constraint.get("operator"), "operator"),
    }


def _listed(value: object, field: str) -> list[Mapping[str, Any]]:
    entries: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise MalformedMessageError(f"{field} must hold objects")
    return entries


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _check_tree(body: object) -> None:
    level = [body]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                _check_texts(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                _check_texts((value,))
            elif isinstance(value, int) and abs(value) >= 1 << 53:
                raise MalformedMessageError("a number is outside what JSON readers keep exactly")
        if not below:
            return
        level = below
    raise MalformedMessageError(f"the body is nested deeper than {MAX_DEPTH} levels")


def _check_texts(values: Mapping[str, Any] | tuple[str, ...]) -> None:
    # Neither can be stored: PostgreSQL refuses NUL in text, and a lone surrogate has no UTF-8 form.
    for value in values:
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise MalformedMessageError("a text holds a lone surrogate") from None
        if "\0" in value:
            raise MalformedMessageError("a text holds a NUL character")
