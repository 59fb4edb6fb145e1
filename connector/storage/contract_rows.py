"""Rows ↔ values of the contracts room."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from contracts.codec import agreement_document, data_address_document, dumps, read_agreement, read_data_address
from contracts.messages import Offer
from contracts.processes import (
    AgreementRecord,
    Counterparty,
    Event,
    Kind,
    Negotiation,
    OutboxRow,
    OutboxStatus,
    Process,
    Transfer,
)
from contracts.states import NegotiationState, Role
from contracts.transfers import TransferState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Return an aware time as whole microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


def maybe_micros(at: datetime | None) -> int | None:
    """Return ``micros`` of a time that may be absent."""
    return None if at is None else micros(at)


def time_of(value: int) -> datetime:
    """Return the aware UTC time of whole microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def maybe_time(value: int | None) -> datetime | None:
    """Return ``time_of`` a number that may be absent."""
    return None if value is None else time_of(value)


def process_row(process: Process, act_at: datetime | None) -> dict[str, Any]:
    """Return the columns of a process."""
    if isinstance(process, Negotiation):
        kind, details = Kind.NEGOTIATION, _negotiation_details(process)
        agreement_id = process.agreement.id if process.agreement else None
    else:
        kind, details, agreement_id = Kind.TRANSFER, _transfer_details(process), process.agreement_id
    return {
        "pid": process.pid,
        "kind": kind.value,
        "role": process.role.value,
        "state": process.state.value,
        "counterparty_id": process.counterparty.participant_id,
        "counterparty_address": process.counterparty.address,
        "peer_pid": process.peer_pid,
        "dataset_id": process.dataset_id,
        "agreement_id": agreement_id,
        "details": dumps(details),
        "created_at": micros(process.created_at),
        "updated_at": micros(process.updated_at),
        "act_at": maybe_micros(act_at),
    }


def process_of(row: Any) -> Process:
    """Return the process in a row of ``dsp_processes``."""
    details: dict[str, Any] = json.loads(row.details)
    counterparty = Counterparty(
        participant_id=row.counterparty_id,
        address=row.counterparty_address,
        public_key=details.get("key"),
        roles=tuple(details.get("roles", ())),
    )
    shared: dict[str, Any] = {
        "pid": row.pid,
        "role": Role(row.role),
        "counterparty": counterparty,
        "peer_pid": row.peer_pid,
        "dataset_id": row.dataset_id,
        "reasons": tuple(details.get("reasons", ())),
        "created_at": time_of(row.created_at),
        "updated_at": time_of(row.updated_at),
    }
    if row.kind == Kind.NEGOTIATION:
        return _negotiation(shared, NegotiationState(row.state), details)
    address = details.get("data_address")
    return Transfer(
        **shared,
        state=TransferState(row.state),
        agreement_id=row.agreement_id,
        format=details["format"],
        data_address=read_data_address(address) if address else None,
    )


def agreement_row(record: AgreementRecord) -> dict[str, Any]:
    """Return the columns of an agreement."""
    return {
        "id": record.agreement.id,
        "role": record.role.value,
        "counterparty_id": record.counterparty.participant_id,
        "counterparty_address": record.counterparty.address,
        "dataset_id": record.agreement.target,
        "negotiation_pid": record.negotiation_pid,
        "digest": record.digest,
        "body": dumps(agreement_document(record.agreement)),
        "concluded_at": micros(record.concluded_at),
    }


def agreement_of(row: Any) -> AgreementRecord:
    """Return the agreement in a row of ``dsp_agreements``."""
    return AgreementRecord(
        agreement=read_agreement(json.loads(row.body)),
        digest=row.digest,
        role=Role(row.role),
        counterparty=Counterparty(participant_id=row.counterparty_id, address=row.counterparty_address),
        negotiation_pid=row.negotiation_pid,
        concluded_at=time_of(row.concluded_at),
    )


def event_row(event: Event) -> dict[str, Any]:
    """Return the columns of an event."""
    return {
        "pid": event.pid,
        "at": micros(event.at),
        "direction": event.direction,
        "step": str(event.step),
        "state": str(event.state),
        "reasons": dumps(list(event.reasons)) if event.reasons else "[]",  # type: ignore[arg-type] # a JSON array
    }


def event_of(row: Any) -> Event:
    """Return the event in a row of ``dsp_events``."""
    return Event(
        seq=row.seq,
        pid=row.pid,
        at=time_of(row.at),
        direction=row.direction,
        step=row.step,
        state=row.state,
        reasons=tuple(json.loads(row.reasons)),
    )


def outbox_of(row: Any) -> OutboxRow:
    """Return the outbox row in a row of ``dsp_outbox``."""
    return OutboxRow(
        id=row.id,
        pid=row.pid,
        kind=Kind(row.kind),
        step=row.step,
        message_id=row.message_id,
        audience=row.audience,
        url=row.url,
        body=row.body,
        status=OutboxStatus(row.status),
        attempts=row.attempts,
        due_at=time_of(row.due_at),
        created_at=time_of(row.created_at),
        lease=row.lease,
        lease_until=maybe_time(row.lease_until),
        last_attempt_at=maybe_time(row.last_attempt_at),
        last_status=row.last_status,
        last_code=row.last_code,
        last_answer=row.last_answer,
    )


def offer_document(offer: Offer) -> dict[str, Any]:
    """Return an offer as it is stored: without a check of what a peer once said."""
    return {
        "id": offer.id,
        "target": offer.target,
        "assigner": offer.assigner,
        "assignee": offer.assignee,
        "rules": offer.rules,
    }


def _negotiation_details(value: Negotiation) -> dict[str, Any]:
    details: dict[str, Any] = {"offer": offer_document(value.offer), "by": value.offered_by.value}
    if value.asked is not None:
        details["asked"] = True if value.asked == value.offer else offer_document(value.asked)
    if value.agreement is not None:
        details["agreement"] = agreement_document(value.agreement)
    if value.verified:
        details["verified"] = True
    return {**details, **_shared_details(value)}


def _transfer_details(value: Transfer) -> dict[str, Any]:
    details: dict[str, Any] = {"format": value.format}
    if value.data_address is not None:
        details["data_address"] = data_address_document(value.data_address)
    return {**details, **_shared_details(value)}


def _shared_details(value: Process) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if value.reasons:
        details["reasons"] = list(value.reasons)
    if value.counterparty.public_key:
        details["key"] = value.counterparty.public_key
    if value.counterparty.roles:
        details["roles"] = list(value.counterparty.roles)
    return details


def _negotiation(shared: Mapping[str, Any], state: NegotiationState, details: Mapping[str, Any]) -> Negotiation:
    offer = Offer(**details["offer"])
    asked, agreement = details.get("asked"), details.get("agreement")
    return Negotiation(
        **shared,
        state=state,
        offer=offer,
        offered_by=Role(details["by"]),
        asked=offer if asked is True else Offer(**asked) if asked else None,
        agreement=read_agreement(agreement) if agreement else None,
        verified=details.get("verified", False),
    )
