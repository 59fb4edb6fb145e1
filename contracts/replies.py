"""What is answered to a message: a process as its owner sees it, or a typed error. Written strictly, read leniently.

Source: Dataspace Protocol 2025-1, ContractNegotiation, TransferProcess, CatalogError, ContractNegotiationError and
TransferError. Peers leave out the context, answer with prefixed words, or say nothing at all; what can be read counts.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from contracts import shapes
from contracts.errors import MalformedMessageError
from contracts.processes import Kind
from contracts.shapes import CONTEXT
from policies.errors import PolicyFormatError
from policies.jsonld import is_compact

MAX_REPLY_BYTES: Final = 1 << 16
_MAX_CODE: Final = 64
_TYPES: Final = {Kind.NEGOTIATION: "ContractNegotiation", Kind.TRANSFER: "TransferProcess"}
_KINDS: Final = {name: kind for kind, name in _TYPES.items()}
_ERRORS: Final = {None: "CatalogError", Kind.NEGOTIATION: "ContractNegotiationError", Kind.TRANSFER: "TransferError"}
_REFUSED: Final = {name: kind for kind, name in _ERRORS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a process stands; a pid is ``None`` where a peer leaves it out, and so is the kind."""

    kind: Kind | None
    state: str | None
    consumer_pid: str | None = None
    provider_pid: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {
            "@context": [CONTEXT],
            "@type": _TYPES[self.kind or Kind.NEGOTIATION],
            "providerPid": self.provider_pid or "",
            "consumerPid": self.consumer_pid or "",
            "state": self.state,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """A typed error; ``kind`` is ``None`` for the catalog's, which has no pids."""

    kind: Kind | None
    code: str | None = None
    reasons: tuple[str, ...] = ()
    consumer_pid: str | None = None
    provider_pid: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON body; a pid that nobody knows stands as an empty text, because the schema wants both."""
        body: dict[str, Any] = {"@context": [CONTEXT], "@type": _ERRORS[self.kind]}
        if self.kind is not None:
            body |= {"providerPid": self.provider_pid or "", "consumerPid": self.consumer_pid or ""}
        if self.code:
            body["code"] = self.code
        if self.reasons:
            body["reason"] = list(self.reasons)
        return body


def read_standing(raw: bytes, expand: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Standing:
    """Return what a peer's answer says of a process.

    Raises:
        MalformedMessageError: it is no JSON object.
    """
    body = read(raw, expand)
    state = body.get("state")
    word = str(state.get("@id") if isinstance(state, Mapping) else state or "").removeprefix("dspace:")
    return Standing(
        kind=_KINDS.get(_type(body)),
        state=word.rsplit("/", 1)[-1] or None,
        consumer_pid=_pid(body, "consumerPid"),
        provider_pid=_pid(body, "providerPid"),
    )


def read_refusal(raw: bytes, expand: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Refusal:
    """Return what a peer's error says.

    Raises:
        MalformedMessageError: it is no JSON object.
    """
    body = read(raw, expand)
    code = body.get("code")
    return Refusal(
        kind=_REFUSED.get(_type(body)),
        code=str(code)[:_MAX_CODE] if isinstance(code, str | int) and str(code).isprintable() else None,
        reasons=shapes.reasons(body),
        consumer_pid=_pid(body, "consumerPid"),
        provider_pid=_pid(body, "providerPid"),
    )


def read(
    raw: bytes,
    expand: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    limit: int = MAX_REPLY_BYTES,
) -> Mapping[str, Any]:
    """Return a peer's answer as compact JSON where that can be had, else as it is.

    Raises:
        MalformedMessageError: it is no JSON object of at most ``limit`` bytes.
    """
    body = shapes.json_object(raw, limit)
    if expand is None or is_compact(body) or not _foreign(body):
        return body
    try:
        return expand(body)
    except PolicyFormatError:
        return body


def _foreign(body: Mapping[str, Any]) -> bool:
    """Whether names in it need their context: one is given, or they are written out."""
    return "@context" in body or any("://" in name for name in body)


def _type(body: Mapping[str, Any]) -> str:
    name = body.get("@type")
    if isinstance(name, list) and len(name) == 1:
        name = name[0]
    return str(name or "").removeprefix("dspace:")


def _pid(body: Mapping[str, Any], name: str) -> str | None:
    try:
        return shapes.optional_identifier(body.get(name) or None, name)
    except MalformedMessageError:
        return None
