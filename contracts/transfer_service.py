"""Transfers: one method per message or command, one transaction each; same shape as ``negotiation_service``.

The behaviour of a transfer is asked outside any transaction, by the sender threads after the commit, because starting
one may need the learning side's own database. Every state change makes it due, so it is told of every state.
"""

import dataclasses
from datetime import datetime, timedelta

from contracts import transfer, transfers, usage
from contracts.codec import Envelope
from contracts.commands import Complete, End, Start, Suspend, TransferCommand
from contracts.errors import (
    IllegalCommandError,
    IllegalTransitionError,
    MalformedMessageError,
    PolicyDeniedError,
    RequestRefusedError,
    UnknownProcessError,
)
from contracts.messages import DataAddress, TransferMessage, TransferRequestMessage, TransferStartMessage
from contracts.parties import as_last_seen, counterparty_at, require_party
from contracts.ports import Later, Participant, PolicyGate, Store, TransferBehaviour, UnitOfWork
from contracts.processes import AgreementRecord, Caller, Counterparty, Kind, Transfer
from contracts.receipts import Answer, answer, receipt, repeated_first, repeated_later
from contracts.recorder import BEHAVIOUR_SECONDS, Recorder
from contracts.states import Role
from contracts.transfers import TransferState


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferService:
    """Both roles of the transfer process protocol."""

    store: Store
    recorder: Recorder
    gate: PolicyGate
    behaviour: TransferBehaviour
    participant: Participant

    # Messages

    def receive_first(self, caller: Caller, envelope: Envelope) -> Answer:
        """Take a consumer's request for a transfer under one of our agreements.

        Raises:
            UnknownProcessError: no such agreement with this caller.
            RequestRefusedError: the dataset has no such format.
            CallbackRefusedError: its callback address is not the caller's.
            ConflictingRepeatError: the same consumerPid was used before with other content.
        """
        message = envelope.message
        if not isinstance(message, TransferRequestMessage):
            raise MalformedMessageError("a first message is a TransferRequestMessage")
        peer = counterparty_at(caller, message.callback_address)

        def work(uow: UnitOfWork) -> Answer:
            now = self.recorder.clock()
            known = uow.by_peer_pid(Kind.TRANSFER, caller.participant_id, message.consumer_pid, Role.PROVIDER)
            if known is not None:
                return repeated_first(uow, known, envelope, message.step, now=now)
            record = uow.agreement(message.agreement_id)
            if record is None or record.role is not Role.PROVIDER or not _is_party(record, caller):
                raise UnknownProcessError("there is no such agreement")
            dataset = uow.dataset(record.agreement.target)
            if dataset is not None and message.format not in dataset.formats:
                raise RequestRefusedError("format: the dataset is not distributed in this format")
            opened = transfer.requested_by_peer(
                message, pid=self.recorder.ids(), dataset_id=record.agreement.target, counterparty=peer, now=now
            )
            self.recorder.write(uow, [opened], new=True, act_at=now)
            uow.begin(receipt(opened.value.pid, envelope, message.step, now))
            return answer(opened.value, created=True)

        return self.store.run("transfer.open", work)

    def receive(self, caller: Caller, pid: str, envelope: Envelope) -> Answer:
        """Take a later message of a transfer.

        Raises:
            UnknownProcessError: no such transfer with this caller.
            ConflictingRepeatError: its ``@id`` was used before with other bytes.
            IllegalTransitionError: the table does not allow it now.
            MalformedMessageError: it belongs to another transfer.
            PolicyDeniedError: it starts again what the agreement does not allow any more.
        """
        message: TransferMessage = envelope.message  # type: ignore[assignment] # the codec was asked for these only
        if isinstance(message, TransferStartMessage):
            self._require_restart(caller, pid)

        def work(uow: UnitOfWork) -> Answer:
            came = receipt(pid, envelope, message.step, self.recorder.clock())
            found, earlier = uow.meet(Kind.TRANSFER, came)
            current = require_party(found if isinstance(found, Transfer) else None, caller, "transfer")
            now = self.recorder.clock()
            legal = transfers.is_legal(current.role.other, current.state, message.step)
            again = repeated_later(current, earlier, envelope, message.step, legal=legal)
            if again is not None:
                return again
            current = dataclasses.replace(current, counterparty=as_last_seen(current.counterparty, caller))
            received = transfer.receive(current, message, now=now)
            self.recorder.write(uow, [received], new=False, act_at=now)
            return answer(received.value)

        return self.store.run("transfer.receive", work)

    def read(self, caller: Caller, pid: str) -> Transfer:
        """Return a transfer to its counterparty.

        Raises:
            UnknownProcessError: no such transfer with this caller.
        """
        return require_party(self.store.transfer(pid), caller, "transfer")

    # Commands

    def request(
        self,
        agreement_id: str,
        format: str,  # noqa: A002 - the specification's word
        data_address: DataAddress | None = None,
        counterparty: Counterparty | None = None,
    ) -> Transfer:
        """Ask the provider of an agreement for a transfer; a data address makes it a push.

        ``counterparty`` overrides the address that the agreement's negotiation was held with.

        Raises:
            UnknownProcessError: we have no such agreement as consumer.
            PolicyDeniedError: it does not allow this any more.
        """
        known = self.store.agreement(agreement_id)
        if known is not None and known.role is Role.CONSUMER:
            found = self._refusals(known, format, counterparty or known.counterparty)
            if found:
                raise PolicyDeniedError(found)

        def work(uow: UnitOfWork) -> Transfer:
            record = uow.agreement(agreement_id)
            if record is None or record.role is not Role.CONSUMER:
                raise UnknownProcessError("there is no such agreement in which we are the consumer")
            now = self.recorder.clock()
            opened = transfer.requested_by_us(
                pid=self.recorder.ids(),
                agreement_id=agreement_id,
                dataset_id=record.agreement.target,
                format=format,
                callback=self.participant.dsp_url,
                counterparty=counterparty or record.counterparty,
                data_address=data_address,
                now=now,
            )
            return self.recorder.write(uow, [opened], new=True, act_at=now)

        return self.store.run("transfer.begin", work)

    def resume(self, pid: str, data_address: DataAddress | None = None) -> Transfer:
        """Start a suspended transfer again; a provider may give a fresh data address."""
        return self.command(pid, Start(data_address=data_address))

    def suspend(self, pid: str, reasons: tuple[str, ...] = ()) -> Transfer:
        """Pause a transfer."""
        return self.command(pid, Suspend(reasons=reasons or ("paused by the operator",)))

    def complete(self, pid: str) -> Transfer:
        """End a transfer that is done."""
        return self.command(pid, Complete())

    def terminate(self, pid: str, reasons: tuple[str, ...] = ()) -> Transfer:
        """End a transfer, saying why."""
        return self.command(pid, End(reasons=reasons or ("ended by the operator",)))

    def command(self, pid: str, command: TransferCommand) -> Transfer:
        """Carry out any command.

        Raises:
            UnknownProcessError: no such transfer.
            IllegalCommandError: its state does not allow it.
            PolicyDeniedError: it would start what the agreement does not allow any more.
        """
        if isinstance(command, Start):
            self._require_use(self.store.transfer(pid))

        def work(uow: UnitOfWork) -> Transfer:
            current = uow.transfer(pid, lock=True)
            if current is None:
                raise UnknownProcessError("there is no such transfer")
            now = self.recorder.clock()
            try:
                outcome = transfer.intend(current, command, now=now)
            except IllegalTransitionError as error:
                raise IllegalCommandError(str(error)) from error
            return self.recorder.write(uow, [outcome], new=False, act_at=now)

        return self.store.run("transfer.command", work)

    def ask_again(self, pid: str) -> None:
        """Make a transfer's behaviour due now, e.g. because what it waited for has come."""

        def work(uow: UnitOfWork) -> None:
            current = uow.transfer(pid, lock=True)
            if current is not None:
                uow.save(current, act_at=self.recorder.clock())
                uow.on_commit(lambda: self.recorder.doorbell.act(Kind.TRANSFER, pid))

        self.store.run("transfer.ask", work)

    def act(self, pid: str) -> None:
        """Ask the behaviour if it is due and carry out what it says; does nothing otherwise."""
        taken = self.store.run("transfer.take", lambda uow: self._take(uow, pid))
        if taken is None:
            return
        seen, was_due = taken
        record = self.store.agreement(seen.agreement_id)
        if record is None:
            said: TransferCommand | Later | None = None
        else:
            said = self._refusal(seen, record) or self.behaviour.next(seen, record, waited=was_due > seen.updated_at)
        self.store.run("transfer.act", lambda uow: self._carry_out(uow, seen, said))

    def _take(self, uow: UnitOfWork, pid: str) -> tuple[Transfer, datetime] | None:
        now = self.recorder.clock()
        taken = uow.take_due(Kind.TRANSFER, pid, now=now, until=now + timedelta(seconds=BEHAVIOUR_SECONDS))
        if taken is None or not isinstance(taken[0], Transfer):
            return None
        return taken[0], taken[1]

    def _carry_out(self, uow: UnitOfWork, seen: Transfer, said: TransferCommand | Later | None) -> None:
        current = uow.transfer(seen.pid, lock=True)
        # A state that changed meanwhile has made the behaviour due again by itself.
        if current is None or (current.state, current.updated_at) != (seen.state, seen.updated_at):
            return
        now = self.recorder.clock()
        if said is None or isinstance(said, Later):
            at = None if said is None else now + timedelta(seconds=said.seconds)
            uow.save(current, act_at=at)
            if at is not None:
                uow.on_commit(lambda: self.recorder.doorbell.later(at))
            return
        self.recorder.write(uow, [transfer.intend(current, said, now=now)], new=False, act_at=now)

    def _refusal(self, seen: Transfer, record: AgreementRecord) -> End | None:
        """The agreement is used again where a transfer starts or has started, so its policy is asked again."""
        due = TransferState.REQUESTED if seen.role is Role.PROVIDER else TransferState.STARTED
        if seen.state is not due:
            return None
        found = self._refusals(record, seen.format, seen.counterparty)
        return End(reasons=found, code="policy-denied") if found else None

    def _refusals(self, record: AgreementRecord, format: str, counterparty: Counterparty) -> tuple[str, ...]:  # noqa: A002 - the specification's word
        return usage.refusals(self.gate, record, format, own=self.participant, counterparty=counterparty)

    def _require_restart(self, caller: Caller, pid: str) -> None:
        """As provider: whether a consumer may go on with what is suspended. A repeat finds it started already."""
        current = self.store.transfer(pid)
        entitled = current is not None and current.counterparty.participant_id == caller.participant_id
        if (
            current is not None
            and entitled
            and current.role is Role.PROVIDER
            and current.state is TransferState.SUSPENDED
        ):
            self._require_use(current)

    def _require_use(self, current: Transfer | None) -> None:
        """Refuse to start again under an agreement that may not be used now.

        Asked outside the transaction that starts it, because what is known of uses lies elsewhere in the database.

        Raises:
            PolicyDeniedError: with the reasons.
        """
        record = self.store.agreement(current.agreement_id) if current is not None else None
        if current is not None and record is not None:
            found = self._refusals(record, current.format, current.counterparty)
            if found:
                raise PolicyDeniedError(found)


def _is_party(record: AgreementRecord, caller: Caller) -> bool:
    return record.agreement.assignee == caller.participant_id
