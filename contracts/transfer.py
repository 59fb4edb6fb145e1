"""The pure transfer machine; same shape as ``negotiation``, its law is the table in ``transfers``."""

import dataclasses
from datetime import datetime

from contracts import transfers
from contracts.commands import Complete, End, Start, Suspend, TransferCommand
from contracts.errors import MalformedMessageError
from contracts.messages import (
    DataAddress,
    TransferCompletionMessage,
    TransferMessage,
    TransferRequestMessage,
    TransferStartMessage,
    TransferSuspensionMessage,
    TransferTerminationMessage,
)
from contracts.processes import Counterparty, Event, Outcome, Transfer
from contracts.states import Role
from contracts.transfers import TransferState, TransferStep


def requested_by_peer(
    message: TransferRequestMessage, *, pid: str, dataset_id: str, counterparty: Counterparty, now: datetime
) -> Outcome[Transfer]:
    """Return a new transfer that a consumer asked us for; we are its provider."""
    return _opened(
        message,
        pid=pid,
        role=Role.PROVIDER,
        peer_pid=message.consumer_pid,
        dataset_id=dataset_id,
        counterparty=counterparty,
        now=now,
    )


def requested_by_us(
    *,
    pid: str,
    agreement_id: str,
    dataset_id: str,
    format: str,  # noqa: A002 - the specification's word
    callback: str,
    counterparty: Counterparty,
    data_address: DataAddress | None,
    now: datetime,
) -> Outcome[Transfer]:
    """Return a new transfer that we ask for as consumer, with the message that says so."""
    message = TransferRequestMessage(
        consumer_pid=pid, agreement_id=agreement_id, format=format, callback_address=callback, data_address=data_address
    )
    return _opened(
        message, pid=pid, role=Role.CONSUMER, peer_pid=None, dataset_id=dataset_id, counterparty=counterparty, now=now
    )


def receive(transfer: Transfer, message: TransferMessage, *, now: datetime) -> Outcome[Transfer]:
    """Apply a message from the counterparty.

    Raises:
        IllegalTransitionError: the table does not allow it now.
        MalformedMessageError: its pids do not belong to this transfer.
    """
    _check_pids(transfer, message)
    sender = transfer.role.other
    state = transfers.after(sender, transfer.state, message.step)
    changed = dataclasses.replace(transfer, state=state, updated_at=now)
    reasons: tuple[str, ...] = ()
    match message:
        case TransferStartMessage():
            address = message.data_address or transfer.data_address
            peer_pid = transfer.peer_pid or _peer_pid(transfer, message)
            changed = dataclasses.replace(changed, data_address=address, peer_pid=peer_pid, reasons=())
        case TransferSuspensionMessage() | TransferTerminationMessage():
            said = "; ".join(message.reason) or message.code or "no reason given"
            word = "suspended" if isinstance(message, TransferSuspensionMessage) else "terminated"
            reasons = (f"{word} by the {sender}: {said}",)
            peer_pid = transfer.peer_pid or _peer_pid(transfer, message)
            changed = dataclasses.replace(changed, reasons=reasons, peer_pid=peer_pid)
        case TransferCompletionMessage() | TransferRequestMessage():
            pass
    return Outcome(value=changed, event=_event(changed, "received", message.step, reasons))


def intend(transfer: Transfer, command: TransferCommand, *, now: datetime) -> Outcome[Transfer]:
    """Apply a decision of ours; the outcome carries the message to send.

    Raises:
        IllegalTransitionError: the table does not allow it now.
    """
    state = transfers.after(transfer.role, transfer.state, command.step)
    changed = dataclasses.replace(transfer, state=state, updated_at=now)
    consumer, provider = transfer.consumer_pid, transfer.provider_pid
    outbound: TransferMessage
    reasons: tuple[str, ...] = ()
    match command:
        case Start():
            address = command.data_address
            changed = dataclasses.replace(changed, data_address=address or transfer.data_address, reasons=())
            outbound = TransferStartMessage(consumer_pid=consumer, provider_pid=provider, data_address=address)
        case Suspend():
            reasons = command.reasons
            changed = dataclasses.replace(changed, reasons=reasons)
            outbound = TransferSuspensionMessage(
                consumer_pid=consumer, provider_pid=provider, code=command.code, reason=reasons
            )
        case Complete():
            outbound = TransferCompletionMessage(consumer_pid=consumer, provider_pid=provider)
        case End():
            reasons = command.reasons
            changed = dataclasses.replace(changed, reasons=reasons)
            outbound = TransferTerminationMessage(
                consumer_pid=consumer, provider_pid=provider, code=command.code, reason=reasons
            )
    return Outcome(value=changed, event=_event(changed, "sent", command.step, reasons), outbound=outbound)


def adopt(transfer: Transfer, state: TransferState, *, reason: str, now: datetime) -> Outcome[Transfer]:
    """Take over the peer's final state after it refused what we sent; no message follows."""
    changed = dataclasses.replace(transfer, state=state, reasons=(reason,), updated_at=now)
    event = Event(pid=changed.pid, at=now, direction="reconciled", step=state, state=state, reasons=(reason,))
    return Outcome(value=changed, event=event)


def _opened(
    message: TransferRequestMessage,
    *,
    pid: str,
    role: Role,
    peer_pid: str | None,
    dataset_id: str,
    counterparty: Counterparty,
    now: datetime,
) -> Outcome[Transfer]:
    value = Transfer(
        pid=pid,
        role=role,
        state=transfers.after(Role.CONSUMER, None, message.step),
        counterparty=counterparty,
        dataset_id=dataset_id,
        agreement_id=message.agreement_id,
        format=message.format,
        created_at=now,
        updated_at=now,
        peer_pid=peer_pid,
        data_address=message.data_address,
    )
    ours = role is Role.CONSUMER
    event = _event(value, "sent" if ours else "received", message.step, ())
    return Outcome(value=value, event=event, outbound=message if ours else None)


def _check_pids(transfer: Transfer, message: TransferMessage) -> None:
    if isinstance(message, TransferRequestMessage):
        return
    own = message.consumer_pid if transfer.role is Role.CONSUMER else message.provider_pid
    peer = _peer_pid(transfer, message)
    if own != transfer.pid or (transfer.peer_pid is not None and peer != transfer.peer_pid):
        raise MalformedMessageError("consumerPid and providerPid must be those of this transfer")


def _peer_pid(transfer: Transfer, message: TransferMessage) -> str | None:
    if isinstance(message, TransferRequestMessage):
        return message.consumer_pid
    return message.provider_pid if transfer.role is Role.CONSUMER else message.consumer_pid


def _event(value: Transfer, direction: str, step: TransferStep, reasons: tuple[str, ...]) -> Event:
    return Event(pid=value.pid, at=value.updated_at, direction=direction, step=step, state=value.state, reasons=reasons)
