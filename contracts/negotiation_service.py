"""Negotiations: one method per message or command, one transaction each.

A transaction locks the row, drops an exact repeat, runs the pure machine, lets the behaviour and the policy gate decide
what follows, and writes value, events and outbox rows. The state changes here, in the receiving transaction, so a peer
that answers before our confirmation has come back meets no conflict.
"""

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta

from contracts import agreement, negotiation, offers, states
from contracts.actions import actions, decide_any
from contracts.codec import Envelope
from contracts.commands import Accept, Agree, CounterOffer, CounterRequest, NegotiationCommand, Terminate
from contracts.errors import (
    IllegalCommandError,
    IllegalTransitionError,
    MalformedMessageError,
    PolicyDeniedError,
    UnknownProcessError,
)
from contracts.messages import ContractOfferMessage, ContractRequestMessage, NegotiationMessage, Offer
from contracts.parties import as_last_seen, counterparty_at, require_party
from contracts.ports import Assessment, Behaviour, Later, Participant, PolicyGate, Store, UnitOfWork
from contracts.processes import Caller, Counterparty, Kind, Negotiation, Outcome
from contracts.receipts import Answer, answer, receipt, repeated_first, repeated_later
from contracts.recorder import BEHAVIOUR_SECONDS, Recorder
from contracts.states import NegotiationState, Role
from contracts.usage import consumer_facts
from policies.signing import Signer

# How many steps a behaviour may take in one transaction; the longest legal run by one side is shorter.
_LONGEST_RUN = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegotiationService:
    """Both roles of the contract negotiation protocol."""

    store: Store
    recorder: Recorder
    gate: PolicyGate
    behaviour: Behaviour
    participant: Participant
    signer: Signer | None

    # Messages

    def receive_first(self, caller: Caller, envelope: Envelope) -> Answer:
        """Take the message that begins a negotiation (a request to us as provider, an offer to us as consumer).

        Raises:
            CallbackRefusedError: its callback address is not the caller's.
            ConflictingRepeatError: the same pid was used before with other content.
            MalformedMessageError: it is not a first message.
        """
        message = envelope.message
        if not isinstance(message, (ContractRequestMessage, ContractOfferMessage)) or message.callback_address is None:
            raise MalformedMessageError("a first message carries a callbackAddress")
        peer = counterparty_at(caller, message.callback_address)
        role = Role.PROVIDER if isinstance(message, ContractRequestMessage) else Role.CONSUMER
        peer_pid = message.consumer_pid if isinstance(message, ContractRequestMessage) else message.provider_pid

        def work(uow: UnitOfWork) -> Answer:
            known = uow.by_peer_pid(Kind.NEGOTIATION, caller.participant_id, peer_pid, role)
            if known is not None:
                return repeated_first(uow, known, envelope, message.step, now=self.recorder.clock())
            now, pid = self.recorder.clock(), self.recorder.ids()
            opened = negotiation.opened_by_peer(message, pid=pid, counterparty=peer, now=now)
            outcomes, act_at = self._advance(uow, opened)
            self.recorder.write(uow, outcomes, new=True, act_at=act_at)
            uow.begin(receipt(pid, envelope, message.step, now))
            return answer(opened.value, created=True)

        return self.store.run("negotiation.open", work)

    def receive(self, caller: Caller, pid: str, envelope: Envelope) -> Answer:
        """Take a later message of a negotiation.

        Raises:
            UnknownProcessError: no such negotiation with this caller.
            ConflictingRepeatError: its ``@id`` was used before with other bytes.
            IllegalTransitionError: the table does not allow it now.
            MalformedMessageError: it belongs to another negotiation.
        """
        message: NegotiationMessage = envelope.message  # type: ignore[assignment] # the codec was asked for these only

        def work(uow: UnitOfWork) -> Answer:
            came = receipt(pid, envelope, message.step, self.recorder.clock())
            found, earlier = uow.meet(Kind.NEGOTIATION, came)
            current = require_party(found if isinstance(found, Negotiation) else None, caller, "negotiation")
            now = self.recorder.clock()
            legal = states.is_legal(current.role.other, current.state, message.step)
            again = repeated_later(current, earlier, envelope, message.step, legal=legal)
            if again is not None:
                return again
            current = dataclasses.replace(current, counterparty=as_last_seen(current.counterparty, caller))
            received = negotiation.receive(current, message, now=now)
            outcomes, act_at = self._advance(uow, received)
            self.recorder.write(uow, outcomes, new=False, act_at=act_at)
            return answer(received.value)

        return self.store.run("negotiation.receive", work)

    def read(self, caller: Caller, pid: str) -> Negotiation:
        """Return a negotiation to its counterparty.

        Raises:
            UnknownProcessError: no such negotiation with this caller.
        """
        return require_party(self.store.negotiation(pid), caller, "negotiation")

    # Commands

    def request(self, counterparty: Counterparty, offer: Offer) -> Negotiation:
        """Begin a negotiation as consumer; ``offer.target`` names the dataset."""
        return self._begin(counterparty, offer, Role.CONSUMER)

    def offer(self, counterparty: Counterparty, dataset_id: str, offer: Offer | None = None) -> Negotiation:
        """Begin a negotiation as provider, with the published offer of a dataset unless other terms are given.

        Raises:
            UnknownProcessError: there is no such dataset.
        """
        if offer is None:
            published = self.store.dataset(dataset_id)
            if published is None:
                raise UnknownProcessError("there is no such dataset")
            offer = published.offer
        return self._begin(counterparty, dataclasses.replace(offer, target=dataset_id), Role.PROVIDER)

    def approve(self, pid: str) -> Negotiation:
        """Say yes to what is on the table: agree as provider, accept as consumer."""
        return self._command(pid, lambda current: Agree() if current.role is Role.PROVIDER else Accept())

    def counter(self, pid: str, offer: Offer) -> Negotiation:
        """Answer with other terms for the same dataset."""

        def choose(current: Negotiation) -> NegotiationCommand:
            terms = dataclasses.replace(offer, target=current.dataset_id)
            return CounterOffer(offer=terms) if current.role is Role.PROVIDER else CounterRequest(offer=terms)

        return self._command(pid, choose)

    def terminate(self, pid: str, reasons: tuple[str, ...]) -> Negotiation:
        """End a negotiation that has not ended."""
        return self._command(pid, lambda _: Terminate(reasons=reasons or ("ended by the operator",)))

    def command(self, pid: str, command: NegotiationCommand) -> Negotiation:
        """Carry out any command.

        Raises:
            UnknownProcessError: no such negotiation.
            IllegalCommandError: its state does not allow it.
            PolicyDeniedError: the policy does not allow us to agree.
        """
        return self._command(pid, lambda _: command)

    def act(self, pid: str) -> None:
        """Ask the behaviour again if it is due; does nothing otherwise."""

        def work(uow: UnitOfWork) -> None:
            now = self.recorder.clock()
            taken = uow.take_due(Kind.NEGOTIATION, pid, now=now, until=now + timedelta(seconds=BEHAVIOUR_SECONDS))
            if taken is None or not isinstance(taken[0], Negotiation):
                return
            current = taken[0]
            said = self.behaviour.next(current, self._assess(uow, current), waited=True)
            if said is None or isinstance(said, Later):
                uow.save(current, act_at=_when(said, now))
                return
            outcomes, act_at = self._advance(uow, self._intend(uow, current, said))
            self.recorder.write(uow, outcomes, new=False, act_at=act_at)

        self.store.run("negotiation.act", work)

    # Inside a transaction

    def _begin(self, counterparty: Counterparty, offer: Offer, role: Role) -> Negotiation:
        begin = negotiation.requested_by_us if role is Role.CONSUMER else negotiation.offered_by_us

        def work(uow: UnitOfWork) -> Negotiation:
            first = begin(
                pid=self.recorder.ids(),
                offer=offer,
                counterparty=counterparty,
                callback=self.participant.dsp_url,
                now=self.recorder.clock(),
            )
            outcomes, act_at = self._advance(uow, first)
            return self.recorder.write(uow, outcomes, new=True, act_at=act_at)

        return self.store.run("negotiation.begin", work)

    def _command(self, pid: str, choose: Callable[[Negotiation], NegotiationCommand]) -> Negotiation:
        def work(uow: UnitOfWork) -> Negotiation:
            current = uow.negotiation(pid, lock=True)
            if current is None:
                raise UnknownProcessError("there is no such negotiation")
            command: NegotiationCommand = choose(current)
            if isinstance(command, Agree) and not (allowed := self._policy(uow, current)).acceptable:
                raise PolicyDeniedError(allowed.reasons)
            try:
                first = self._intend(uow, current, command)
            except IllegalTransitionError as error:
                raise IllegalCommandError(str(error)) from error
            outcomes, act_at = self._advance(uow, first)
            return self.recorder.write(uow, outcomes, new=False, act_at=act_at)

        return self.store.run("negotiation.command", work)

    def _intend(self, uow: UnitOfWork, current: Negotiation, command: NegotiationCommand) -> Outcome[Negotiation]:
        now = self.recorder.clock()
        if isinstance(command, Agree) and command.agreement is None:
            made = agreement.conclude(
                current, id=self.recorder.ids(), provider=self.participant.id, signer=self.signer, now=now
            )
            command = Agree(agreement=made)
        outcome = negotiation.intend(current, command, now=now)
        self._conclude(uow, outcome.value, now)
        return outcome

    def _advance(
        self, uow: UnitOfWork, first: Outcome[Negotiation]
    ) -> tuple[list[Outcome[Negotiation]], datetime | None]:
        """Let the behaviour act on a state change, step after step; returns the chain and when to ask again."""
        outcomes = [first]
        if first.event.direction == "received":
            self._conclude(uow, first.value, first.event.at)
        for _ in range(_LONGEST_RUN):
            value = outcomes[-1].value
            said = self.behaviour.next(value, self._assess(uow, value), waited=False)
            if said is None or isinstance(said, Later):
                return outcomes, _when(said, self.recorder.clock())
            outcomes.append(self._intend(uow, value, said))
        return outcomes, None

    def _conclude(self, uow: UnitOfWork, value: Negotiation, now: datetime) -> None:
        if value.state is NegotiationState.FINALIZED and value.agreement is not None:
            uow.add_agreement(agreement.record(value, value.agreement, now=now))

    def _assess(self, uow: UnitOfWork, value: Negotiation) -> Assessment:
        match value.role, value.state:
            case Role.PROVIDER, NegotiationState.REQUESTED:
                return self._assess_request(uow, value)
            case Role.PROVIDER, NegotiationState.ACCEPTED:
                return self._policy(uow, value)
            case Role.CONSUMER, NegotiationState.OFFERED:
                return _assess_offer(value)
            case Role.CONSUMER, NegotiationState.AGREED:
                return agreement.assess_agreement(
                    value, consumer=self.participant.id, public_key=value.counterparty.public_key
                )
            case _:
                return Assessment(acceptable=True)

    def _assess_request(self, uow: UnitOfWork, value: Negotiation) -> Assessment:
        facts = consumer_facts(value.counterparty)
        published = uow.dataset(value.dataset_id)
        if (
            published
            and not decide_any(
                self.gate, "catalog", published.offer.document(), facts, actions(published.offer.rules)
            ).allowed
        ):
            published = None
        return offers.assess_request(value.offer, published, self.gate, facts)

    def _policy(self, uow: UnitOfWork, value: Negotiation) -> Assessment:
        """Whether the published policy allows what is on the table (the terms may be an operator's own)."""
        published = uow.dataset(value.dataset_id)
        policy = published.offer if published else value.offer
        facts = consumer_facts(value.counterparty)
        stated = offers.purpose(value.offer.rules)
        known = {**facts, "purpose": stated} if stated else facts
        verdict = decide_any(self.gate, "negotiation", policy.document(), known, actions(value.offer.rules))
        return Assessment(acceptable=verdict.allowed, reasons=tuple(verdict.refusals))


def _assess_offer(value: Negotiation) -> Assessment:
    if value.asked is None:
        return Assessment(acceptable=False, reasons=("offer: we did not ask for it",))
    found = offers.changes(value.offer.rules, value.asked.rules)
    return Assessment(acceptable=not found, reasons=found)


def _when(answer: Later | None, now: datetime) -> datetime | None:
    return None if answer is None else now + timedelta(seconds=answer.seconds)
