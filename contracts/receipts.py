"""Repeats: the same message id with the same bytes gets the same answer, with other bytes it is a conflict.

A message's id is its ``@id``; one without is known by its digest. The answer to a repeat is read off the table, because
every step leads to one state only.
"""

import dataclasses
from datetime import datetime

from contracts import states, transfers
from contracts.codec import Envelope
from contracts.errors import ConflictingRepeatError
from contracts.ports import UnitOfWork
from contracts.processes import Process, Receipt
from contracts.states import NegotiationStep
from contracts.transfers import TransferStep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a peer is answered: both pids, the state after its message, and whether a process was created."""

    consumer_pid: str
    provider_pid: str
    state: str
    created: bool = False


def answer(value: Process, *, created: bool = False) -> Answer:
    """Return the answer that shows a process as it is now."""
    return Answer(
        consumer_pid=value.consumer_pid or "", provider_pid=value.provider_pid or "", state=value.state, created=created
    )


def receipt(pid: str, envelope: Envelope, step: NegotiationStep | TransferStep, now: datetime) -> Receipt:
    """Return the record of a message that is being taken."""
    return Receipt(
        pid=pid,
        message_id=envelope.message_id or envelope.digest,
        digest=envelope.digest,
        step=step,
        received_at=now,
    )


def repeat(
    current: Process,
    earlier: Receipt,
    envelope: Envelope,
    step: NegotiationStep | TransferStep,
    *,
    created: bool = False,
) -> Answer:
    """Return the answer that the message got the first time.

    Raises:
        ConflictingRepeatError: it came with other content then.
    """
    if earlier.digest != envelope.digest:
        raise _conflict(current, "this message id was used before with other content")
    state = states.RESULT[step] if isinstance(step, NegotiationStep) else transfers.RESULT[step]
    return dataclasses.replace(answer(current, created=created), state=state)


def repeated_first(
    uow: UnitOfWork, known: Process, envelope: Envelope, step: NegotiationStep | TransferStep, *, now: datetime
) -> Answer:
    """Return the answer to a first message whose pid we know already.

    Raises:
        ConflictingRepeatError: the pid was used before with other content.
    """
    earlier = uow.receive(receipt(known.pid, envelope, step, now))
    if earlier is None:
        raise _conflict(known, "this process id was used before with other content")
    return repeat(known, earlier, envelope, step, created=True)


def repeated_later(
    current: Process,
    earlier: Receipt | None,
    envelope: Envelope,
    step: NegotiationStep | TransferStep,
    *,
    legal: bool,
) -> Answer | None:
    """Return the answer to a later message that was taken before (``earlier``), ``None`` to a new one.

    A message without an ``@id`` is known by its bytes only, and the same bytes may be meant twice (start, suspend,
    start): it counts as a repeat where the table does not allow it now.

    Raises:
        ConflictingRepeatError: its id was used before with other content.
    """
    if earlier is not None and (envelope.message_id is not None or not legal):
        return repeat(current, earlier, envelope, step)
    return None


def _conflict(about: Process, words: str) -> ConflictingRepeatError:
    error = ConflictingRepeatError(words)
    error.pids = about.consumer_pid, about.provider_pid
    return error
