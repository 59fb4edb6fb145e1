"""The pure negotiation machine: a value and a message or command in, an Outcome out; nothing is read or written.

``receive`` applies what the peer sent, ``intend`` what we decided; both ask the table in ``states``.
"""

import dataclasses
from datetime import datetime

from contracts import states
from contracts.commands import (
    Accept,
    Agree,
    CounterOffer,
    CounterRequest,
    Finalize,
    NegotiationCommand,
    Terminate,
    Verify,
)
from contracts.errors import IllegalCommandError, MalformedMessageError
from contracts.messages import (
    ContractAgreementMessage,
    ContractAgreementVerificationMessage,
    ContractNegotiationEventMessage,
    ContractNegotiationTerminationMessage,
    ContractOfferMessage,
    ContractRequestMessage,
    NegotiationMessage,
    Offer,
)
from contracts.processes import Counterparty, Event, Negotiation, Outcome
from contracts.states import NegotiationState, NegotiationStep, Role


def opened_by_peer(
    message: ContractRequestMessage | ContractOfferMessage, *, pid: str, counterparty: Counterparty, now: datetime
) -> Outcome[Negotiation]:
    """Return a new negotiation that the peer began: we are provider of a request, consumer of an offer."""
    role = Role.PROVIDER if isinstance(message, ContractRequestMessage) else Role.CONSUMER
    peer_pid = message.consumer_pid if role is Role.PROVIDER else message.provider_pid
    return _opened(message, pid=pid, role=role, peer_pid=peer_pid, counterparty=counterparty, now=now)


def requested_by_us(
    *, pid: str, offer: Offer, counterparty: Counterparty, callback: str, now: datetime
) -> Outcome[Negotiation]:
    """Return a new negotiation that we begin as consumer, with the message that says so."""
    message = ContractRequestMessage(consumer_pid=pid, offer=offer, callback_address=callback)
    return _opened(message, pid=pid, role=Role.CONSUMER, peer_pid=None, counterparty=counterparty, now=now)


def offered_by_us(
    *, pid: str, offer: Offer, counterparty: Counterparty, callback: str, now: datetime
) -> Outcome[Negotiation]:
    """Return a new negotiation that we begin as provider, with the message that says so."""
    message = ContractOfferMessage(provider_pid=pid, offer=offer, callback_address=callback)
    return _opened(message, pid=pid, role=Role.PROVIDER, peer_pid=None, counterparty=counterparty, now=now)


def receive(negotiation: Negotiation, message: NegotiationMessage, *, now: datetime) -> Outcome[Negotiation]:
    """Apply a message from the counterparty.

    Raises:
        IllegalTransitionError: the table does not allow it now.
        MalformedMessageError: its pids or offer do not belong to this negotiation.
    """
    _check_pids(negotiation, message)
    sender = negotiation.role.other
    state = states.after(sender, negotiation.state, message.step)
    changed = dataclasses.replace(
        negotiation, state=state, updated_at=now, peer_pid=negotiation.peer_pid or _peer_pid(negotiation, message)
    )
    reasons: tuple[str, ...] = ()
    match message:
        case ContractRequestMessage() | ContractOfferMessage():
            if message.offer.target != negotiation.dataset_id:
                raise MalformedMessageError("an offer's target must stay the dataset that is negotiated")
            asked = message.offer if sender is Role.CONSUMER else changed.asked
            changed = dataclasses.replace(changed, offer=message.offer, offered_by=sender, asked=asked)
        case ContractAgreementMessage():
            changed = dataclasses.replace(changed, agreement=message.agreement)
        case ContractNegotiationTerminationMessage():
            said = "; ".join(message.reason) or message.code or "no reason given"
            reasons = (f"terminated by the {sender}: {said}",)
            changed = dataclasses.replace(changed, reasons=reasons)
        case ContractAgreementVerificationMessage():
            changed = dataclasses.replace(changed, verified=True)
        case ContractNegotiationEventMessage():
            pass
    return Outcome(value=changed, event=_event(changed, "received", message.step, reasons))


def intend(negotiation: Negotiation, command: NegotiationCommand, *, now: datetime) -> Outcome[Negotiation]:
    """Apply a decision of ours; the outcome carries the message to send.

    Raises:
        IllegalTransitionError: the table does not allow it now.
        IllegalCommandError: ``Agree`` without an agreement.
    """
    state = states.after(negotiation.role, negotiation.state, command.step)
    changed = dataclasses.replace(negotiation, state=state, updated_at=now)
    consumer, provider = negotiation.consumer_pid, negotiation.provider_pid
    outbound: NegotiationMessage
    reasons: tuple[str, ...] = ()
    match command:
        case CounterRequest():
            changed = dataclasses.replace(changed, offer=command.offer, offered_by=Role.CONSUMER, asked=command.offer)
            outbound = ContractRequestMessage(
                consumer_pid=consumer or "", provider_pid=provider or "", offer=command.offer
            )
        case CounterOffer():
            changed = dataclasses.replace(changed, offer=command.offer, offered_by=Role.PROVIDER)
            outbound = ContractOfferMessage(
                provider_pid=provider or "", consumer_pid=consumer or "", offer=command.offer
            )
        case Accept():
            outbound = ContractNegotiationEventMessage(
                consumer_pid=consumer, provider_pid=provider, event_type="ACCEPTED"
            )
        case Agree():
            if command.agreement is None:
                raise IllegalCommandError("there is no agreement to send")
            changed = dataclasses.replace(changed, agreement=command.agreement)
            outbound = ContractAgreementMessage(
                consumer_pid=consumer, provider_pid=provider or "", agreement=command.agreement
            )
        case Verify():
            changed = dataclasses.replace(changed, verified=True)
            outbound = ContractAgreementVerificationMessage(consumer_pid=consumer or "", provider_pid=provider)
        case Finalize():
            outbound = ContractNegotiationEventMessage(
                consumer_pid=consumer, provider_pid=provider, event_type="FINALIZED"
            )
        case Terminate():
            reasons = command.reasons
            changed = dataclasses.replace(changed, reasons=reasons)
            outbound = ContractNegotiationTerminationMessage(
                consumer_pid=consumer, provider_pid=provider, code=command.code, reason=reasons
            )
    return Outcome(value=changed, event=_event(changed, "sent", command.step, reasons), outbound=outbound)


def adopt(negotiation: Negotiation, state: NegotiationState, *, reason: str, now: datetime) -> Outcome[Negotiation]:
    """Take over the peer's final state after it refused what we sent; no message follows.

    A consumer that had verified and then terminated may find that the provider had finalized already: its termination
    came too late, and both hold the agreement.
    """
    changed = dataclasses.replace(negotiation, state=state, reasons=(reason,), updated_at=now)
    event = Event(pid=changed.pid, at=now, direction="reconciled", step=state, state=state, reasons=(reason,))
    return Outcome(value=changed, event=event)


def _opened(
    message: ContractRequestMessage | ContractOfferMessage,
    *,
    pid: str,
    role: Role,
    peer_pid: str | None,
    counterparty: Counterparty,
    now: datetime,
) -> Outcome[Negotiation]:
    sender = Role.CONSUMER if isinstance(message, ContractRequestMessage) else Role.PROVIDER
    value = Negotiation(
        pid=pid,
        role=role,
        state=states.after(sender, None, message.step),
        counterparty=counterparty,
        dataset_id=message.offer.target or "",
        offer=message.offer,
        offered_by=sender,
        asked=message.offer if sender is Role.CONSUMER else None,
        created_at=now,
        updated_at=now,
        peer_pid=peer_pid,
    )
    ours = sender is role
    event = _event(value, "sent" if ours else "received", message.step, ())
    return Outcome(value=value, event=event, outbound=message if ours else None)


def _check_pids(negotiation: Negotiation, message: NegotiationMessage) -> None:
    own = message.consumer_pid if negotiation.role is Role.CONSUMER else message.provider_pid
    peer = _peer_pid(negotiation, message)
    if own != negotiation.pid or (negotiation.peer_pid is not None and peer != negotiation.peer_pid):
        raise MalformedMessageError("consumerPid and providerPid must be those of this negotiation")


def _peer_pid(negotiation: Negotiation, message: NegotiationMessage) -> str | None:
    return message.provider_pid if negotiation.role is Role.CONSUMER else message.consumer_pid


def _event(value: Negotiation, direction: str, step: NegotiationStep, reasons: tuple[str, ...]) -> Event:
    return Event(pid=value.pid, at=value.updated_at, direction=direction, step=step, state=value.state, reasons=reasons)
