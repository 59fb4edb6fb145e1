"""Writes what a step led to: value, events, outbox rows and doorbell, all in the transaction that is open."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote

from contracts import states, transfers
from contracts.codec import dumps, encode
from contracts.messages import (
    ContractOfferMessage,
    ContractRequestMessage,
    Message,
    TransferRequestMessage,
)
from contracts.ports import Clock, Doorbell, Ids, UnitOfWork
from contracts.processes import Kind, Negotiation, OutboxRow, OutboxStatus, Outcome, P, Process
from contracts.states import NegotiationStep
from contracts.transfers import TransferStep

UNKNOWN_PID: Final = "{pid}"
# How long whoever has taken a behaviour may ask it before others do.
BEHAVIOUR_SECONDS: Final = 60.0
_PATHS: Final = {
    NegotiationStep.REQUEST: "negotiations/{}/request",
    NegotiationStep.OFFER: "negotiations/{}/offers",
    NegotiationStep.ACCEPT: "negotiations/{}/events",
    NegotiationStep.AGREE: "negotiations/{}/agreement",
    NegotiationStep.VERIFY: "negotiations/{}/agreement/verification",
    NegotiationStep.FINALIZE: "negotiations/{}/events",
    NegotiationStep.TERMINATE: "negotiations/{}/termination",
    TransferStep.START: "transfers/{}/start",
    TransferStep.SUSPEND: "transfers/{}/suspension",
    TransferStep.COMPLETE: "transfers/{}/completion",
    TransferStep.TERMINATE: "transfers/{}/termination",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorder:
    """The one place that writes processes; times are aware UTC, ids come from ``ids``."""

    clock: Clock
    ids: Ids
    doorbell: Doorbell
    lease_seconds: float = 30.0

    def write(self, uow: UnitOfWork, outcomes: Sequence[Outcome[P]], *, new: bool, act_at: datetime | None = None) -> P:
        """Write a chain of outcomes of one process: the last value, every event, every message to send."""
        value = outcomes[-1].value
        if new:
            uow.add(value, act_at=act_at)
        else:
            uow.save(value, act_at=act_at)
        uow.add_events([outcome.event for outcome in outcomes])
        if is_final(value) and outcomes[-1].event.direction != "sent":
            uow.drop_queued(value.pid)
        for outcome in outcomes:
            if outcome.outbound is not None:
                self._enqueue(uow, value, outcome.outbound)
        if act_at is not None:
            self._note(uow, value, act_at)
        return value

    def _note(self, uow: UnitOfWork, value: Process, act_at: datetime) -> None:
        if act_at <= value.updated_at:
            kind, pid = kind_of(value), value.pid
            uow.on_commit(lambda: self.doorbell.act(kind, pid))
        else:
            uow.on_commit(lambda: self.doorbell.later(act_at))

    def _enqueue(self, uow: UnitOfWork, value: Process, message: Message) -> None:
        message_id, now = self.ids(), self.clock()
        until = now + timedelta(seconds=self.lease_seconds)
        row = OutboxRow(
            id=0,
            pid=value.pid,
            kind=kind_of(value),
            step=str(getattr(message, "step", "")),
            message_id=message_id,
            audience=value.counterparty.participant_id,
            url=f"{value.counterparty.address.rstrip('/')}/{path(message, value.peer_pid)}",
            body=dumps(encode(message, message_id=message_id)),
            status=OutboxStatus.QUEUED,
            attempts=0,
            due_at=now,
            created_at=now,
        )
        appended = uow.enqueue(row, lease=self.doorbell.lease, lease_until=until)
        uow.on_commit(lambda: self._ring(appended()))

    def _ring(self, row: OutboxRow) -> None:
        if row.lease is not None:
            self.doorbell.row(row)


def path(message: Message, peer_pid: str | None) -> str:
    """Return where a message goes, relative to the peer's base (DSP 2025-1, HTTPS bindings)."""
    match message:
        case ContractRequestMessage() if message.provider_pid is None:
            return "negotiations/request"
        case ContractOfferMessage() if message.consumer_pid is None:
            return "negotiations/offers"
        case TransferRequestMessage():
            return "transfers/request"
        case _:
            pid = UNKNOWN_PID if peer_pid is None else quote(peer_pid, safe=":")
            return _PATHS[message.step].format(pid)  # type: ignore[union-attr] # a catalog request is never queued


def kind_of(process: Process) -> Kind:
    """Return which kind of process this is."""
    return Kind.NEGOTIATION if isinstance(process, Negotiation) else Kind.TRANSFER


def is_final(process: Process) -> bool:
    """Return whether the process has ended."""
    if isinstance(process, Negotiation):
        return process.state in states.FINAL
    return process.state in transfers.FINAL
