"""JSON ↔ messages: the only place where a peer's bytes become values.

A body whose ``@context`` is an array of strings that contains the DSP context is plain JSON, because DSP's terms are
protected in it (DSP 2025-1, section "Serialization"); any other goes through the ``expand`` hook first
(``policies.jsonld.compact_to_dsp``), or is refused when there is none. Nothing is ever fetched.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from contracts import shapes
from contracts.errors import ContractError, MalformedMessageError
from contracts.messages import (
    Agreement,
    CatalogRequestMessage,
    ContractAgreementMessage,
    ContractAgreementVerificationMessage,
    ContractNegotiationEventMessage,
    ContractNegotiationTerminationMessage,
    ContractOfferMessage,
    ContractRequestMessage,
    DataAddress,
    Message,
    Offer,
    TransferCompletionMessage,
    TransferRequestMessage,
    TransferStartMessage,
    TransferSuspensionMessage,
    TransferTerminationMessage,
)
from contracts.shapes import CONTEXT, ORCHARD
from policies.canonical import sha256_hex
from policies.errors import PolicyFormatError
from policies.jsonld import is_compact

Expand: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

SIGNATURE: Final = ORCHARD + "signature"
MAX_BODY_BYTES: Final = 1 << 20
# Made once: json.dumps with options makes an encoder per call.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Envelope:
    """A message with what identifies it: its ``@id`` (``None`` when it has none) and the SHA-256 of its bytes."""

    message: Message
    message_id: str | None
    digest: str


def parse(raw: bytes, accepts: frozenset[type], expand: Expand | None = None) -> Envelope:
    """Return the message in ``raw`` (UTF-8 JSON, at most 1 MiB, 64 deep).

    Raises:
        MalformedMessageError: not JSON, not a DSP body, another message type than those in ``accepts``.
    """
    body = load(raw, expand)
    type_name = body.get("@type")
    if isinstance(type_name, list) and len(type_name) == 1:
        type_name = type_name[0]
    for kind in accepts:
        if kind.__name__ == type_name:
            message = _READERS[kind](body)
            message_id = body.get("@id")
            if message_id is not None:
                message_id = shapes.identifier(message_id, "@id")
            return Envelope(message=message, message_id=message_id, digest=sha256_hex(raw))
    raise MalformedMessageError(f"@type must be one of {', '.join(sorted(kind.__name__ for kind in accepts))}")


def load(raw: bytes, expand: Expand | None = None) -> dict[str, Any]:
    """Return a DSP body as compact JSON (context checked, or expanded and compacted by the hook).

    Raises:
        MalformedMessageError: it is not such a body.
    """
    body = shapes.json_object(raw, MAX_BODY_BYTES)
    if is_compact(body):
        return body
    if expand is None:
        raise MalformedMessageError(f"@context must be an array of strings that contains {CONTEXT}")
    try:
        found = expand(body)
    except ContractError:
        raise
    except PolicyFormatError as error:
        raise MalformedMessageError(f"the body cannot be read under its @context: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedMessageError("the body cannot be read under its @context") from error
    if _asked(body) > _asked(found):
        # What a context does not name falls away in JSON-LD; a filter that falls away would mean "everything".
        raise MalformedMessageError("filter: its members mean nothing under the body's @context")
    return found


def _asked(body: Mapping[str, Any]) -> int:
    """Count what the filter of a body asks, under whatever name it stands."""
    found = (value for name, value in body.items() if name == "filter" or name.endswith((":filter", "/filter")))
    entries = [entry for value in found for entry in (value if isinstance(value, list) else [value])]
    return sum(len(set(entry) - {"@type", "@context"}) for entry in entries if isinstance(entry, Mapping))


def encode(message: Message, *, message_id: str) -> dict[str, Any]:
    """Return a message as a JSON object; a pid that is not known yet stands as an empty string."""
    return {
        "@context": [CONTEXT],
        "@id": message_id,
        "@type": type(message).__name__,
        **_WRITERS[type(message)](message),
    }


def dumps(body: Mapping[str, Any]) -> str:
    """Return JSON text without white space."""
    return _ENCODER.encode(body)


def data_address_document(address: DataAddress) -> dict[str, Any]:
    """Return a data address as it stands in a message."""
    document: dict[str, Any] = {"@type": "DataAddress", "endpointType": address.endpoint_type}
    if address.endpoint is not None:
        document["endpoint"] = address.endpoint
    if address.properties:
        document["endpointProperties"] = [
            {"@type": "EndpointProperty", "name": name, "value": value} for name, value in address.properties
        ]
    return document


def read_data_address(document: Mapping[str, Any]) -> DataAddress:
    """Return a data address from its JSON form.

    Raises:
        MalformedMessageError: it is none.
    """
    return shapes.data_address(document)


def agreement_document(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement as it stands in a message, with the provider's signature when it has one."""
    document: dict[str, Any] = {
        "@id": agreement.id,
        "@type": "Agreement",
        "target": agreement.target,
        "assigner": agreement.assigner,
        "assignee": agreement.assignee,
        **agreement.rules,
    }
    if agreement.timestamp:
        document["timestamp"] = agreement.timestamp
    if agreement.signature:
        document[SIGNATURE] = {ORCHARD + name: agreement.signature[name] for name in shapes.SIGNATURE_PARTS}
    return document


def read_agreement(document: Mapping[str, Any]) -> Agreement:
    """Return an agreement from its JSON form.

    Raises:
        MalformedMessageError: it is none.
    """
    return Agreement(
        id=shapes.identifier(document.get("@id"), "agreement @id"),
        target=shapes.identifier(document.get("target"), "agreement target"),
        assigner=shapes.identifier(document.get("assigner"), "agreement assigner"),
        assignee=shapes.identifier(document.get("assignee"), "agreement assignee"),
        timestamp=shapes.optional_text(document.get("timestamp"), "timestamp"),
        rules=shapes.rules(document),
        signature=shapes.signature(document.get(SIGNATURE)),
    )


def read_offer(document: Mapping[str, Any]) -> Offer:
    """Return an offer from its JSON form.

    Raises:
        MalformedMessageError: it is none.
    """
    return Offer(
        id=shapes.identifier(document.get("@id"), "offer @id"),
        target=shapes.optional_identifier(document.get("target"), "offer target"),
        assigner=shapes.optional_identifier(document.get("assigner"), "assigner"),
        assignee=shapes.optional_identifier(document.get("assignee"), "assignee"),
        rules=shapes.rules(document),
    )


def _message_offer(body: Mapping[str, Any]) -> Offer:
    document = shapes.mapping(body.get("offer"), "offer")
    shapes.identifier(document.get("target"), "offer target")
    return read_offer(document)


def _pids(body: Mapping[str, Any]) -> dict[str, str]:
    return {
        "consumer_pid": shapes.identifier(body.get("consumerPid"), "consumerPid"),
        "provider_pid": shapes.identifier(body.get("providerPid"), "providerPid"),
    }


def _stop(body: Mapping[str, Any]) -> dict[str, Any]:
    return {**_pids(body), "code": shapes.optional_text(body.get("code"), "code"), "reason": shapes.reasons(body)}


def _read_request(body: Mapping[str, Any]) -> ContractRequestMessage:
    callback = shapes.optional_text(body.get("callbackAddress"), "callbackAddress")
    provider_pid = shapes.optional_identifier(body.get("providerPid"), "providerPid")
    if (callback is None) == (provider_pid is None):
        raise MalformedMessageError("exactly one of callbackAddress and providerPid must be given")
    return ContractRequestMessage(
        consumer_pid=shapes.identifier(body.get("consumerPid"), "consumerPid"),
        provider_pid=provider_pid,
        callback_address=callback,
        offer=_message_offer(body),
    )


def _read_offer_message(body: Mapping[str, Any]) -> ContractOfferMessage:
    callback = shapes.optional_text(body.get("callbackAddress"), "callbackAddress")
    consumer_pid = shapes.optional_identifier(body.get("consumerPid"), "consumerPid")
    if callback is None and consumer_pid is None:
        raise MalformedMessageError("one of callbackAddress and consumerPid must be given")
    return ContractOfferMessage(
        provider_pid=shapes.identifier(body.get("providerPid"), "providerPid"),
        consumer_pid=consumer_pid,
        callback_address=callback,
        offer=_message_offer(body),
    )


def _read_event(body: Mapping[str, Any]) -> ContractNegotiationEventMessage:
    event_type = body.get("eventType")
    if event_type not in ("ACCEPTED", "FINALIZED"):
        raise MalformedMessageError("eventType must be ACCEPTED or FINALIZED")
    return ContractNegotiationEventMessage(**_pids(body), event_type=event_type)


def _read_transfer_request(body: Mapping[str, Any]) -> TransferRequestMessage:
    return TransferRequestMessage(
        consumer_pid=shapes.identifier(body.get("consumerPid"), "consumerPid"),
        agreement_id=shapes.identifier(body.get("agreementId"), "agreementId"),
        format=shapes.text(body.get("format"), "format"),
        callback_address=shapes.text(body.get("callbackAddress"), "callbackAddress"),
        data_address=shapes.optional_data_address(body),
    )


_READERS: Final[Mapping[type, Callable[[Mapping[str, Any]], Any]]] = {
    CatalogRequestMessage: lambda body: CatalogRequestMessage(filter=shapes.filters(body.get("filter"))),
    ContractRequestMessage: _read_request,
    ContractOfferMessage: _read_offer_message,
    ContractAgreementMessage: lambda body: ContractAgreementMessage(
        **_pids(body), agreement=read_agreement(shapes.mapping(body.get("agreement"), "agreement"))
    ),
    ContractAgreementVerificationMessage: lambda body: ContractAgreementVerificationMessage(**_pids(body)),
    ContractNegotiationEventMessage: _read_event,
    ContractNegotiationTerminationMessage: lambda body: ContractNegotiationTerminationMessage(**_stop(body)),
    TransferRequestMessage: _read_transfer_request,
    TransferStartMessage: lambda body: TransferStartMessage(
        **_pids(body), data_address=shapes.optional_data_address(body)
    ),
    TransferSuspensionMessage: lambda body: TransferSuspensionMessage(**_stop(body)),
    TransferCompletionMessage: lambda body: TransferCompletionMessage(**_pids(body)),
    TransferTerminationMessage: lambda body: TransferTerminationMessage(**_stop(body)),
}


def _write_pids(message: Any) -> dict[str, Any]:
    return {"consumerPid": message.consumer_pid or "", "providerPid": message.provider_pid or ""}


def _write_stop(message: Any) -> dict[str, Any]:
    body = _write_pids(message)
    if message.code:
        body["code"] = message.code
    if message.reason:
        body["reason"] = list(message.reason)
    return body


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _write_transfer_request(message: TransferRequestMessage) -> dict[str, Any]:
    body: dict[str, Any] = {
        "consumerPid": message.consumer_pid,
        "agreementId": message.agreement_id,
        "format": message.format,
        "callbackAddress": message.callback_address,
    }
    if message.data_address:
        body["dataAddress"] = data_address_document(message.data_address)
    return body


def _write_start(message: TransferStartMessage) -> dict[str, Any]:
    body = _write_pids(message)
    if message.data_address:
        body["dataAddress"] = data_address_document(message.data_address)
    return body


_WRITERS: Final[Mapping[type, Callable[[Any], dict[str, Any]]]] = {
    CatalogRequestMessage: lambda m: {"filter": [dict(entry) for entry in m.filter]} if m.filter else {},
    ContractRequestMessage: lambda m: {
        "consumerPid": m.consumer_pid,
        **_given(providerPid=m.provider_pid, callbackAddress=m.callback_address),
        "offer": m.offer.document(),
    },
    ContractOfferMessage: lambda m: {
        "providerPid": m.provider_pid,
        **_given(consumerPid=m.consumer_pid, callbackAddress=m.callback_address),
        "offer": m.offer.document(),
    },
    ContractAgreementMessage: lambda m: {**_write_pids(m), "agreement": agreement_document(m.agreement)},
    ContractAgreementVerificationMessage: _write_pids,
    ContractNegotiationEventMessage: lambda m: {**_write_pids(m), "eventType": m.event_type},
    ContractNegotiationTerminationMessage: _write_stop,
    TransferRequestMessage: _write_transfer_request,
    TransferStartMessage: _write_start,
    TransferSuspensionMessage: _write_stop,
    TransferCompletionMessage: _write_pids,
    TransferTerminationMessage: _write_stop,
}
