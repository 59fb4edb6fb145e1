"""Two connectors and a wire that loses, doubles, reorders and overtakes, whoever does whatever when: they end alike."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts import states, transfers
from contracts.behaviour import AutomaticBehaviour, ManualBehaviour
from contracts.errors import ContractError
from contracts.ports import Query
from contracts.processes import Kind, OutboxRow, OutboxStatus
from contracts.states import NegotiationState, Role
from contracts.transfers import TransferState
from tests.support.dataspace import Clock, Side, Wire, asking, dataset, open_side, settle

FATES = st.lists(st.sampled_from(["deliver", "drop", "lose", "twice", "overtake"]), max_size=8)
WHO = st.sampled_from(["consumer", "provider"])
ALL = Query(limit=500)


@dataclasses.dataclass
class _Chosen:
    """The behaviour of both sides, changed between runs."""

    behaviour: Any = dataclasses.field(default_factory=AutomaticBehaviour)

    def next(self, negotiation: Any, assessment: Any, *, waited: bool) -> Any:
        return self.behaviour.next(negotiation, assessment, waited=waited)


@dataclasses.dataclass
class _Pair:
    wire: Wire
    consumer: Side
    provider: Side
    chosen: _Chosen

    def side(self, name: str) -> Side:
        return self.consumer if name == "consumer" else self.provider


@pytest.fixture
def pair(database: Database, tmp_path: Path) -> Iterator[_Pair]:
    """Give a consumer on a file and a provider on each database in turn."""
    url = f"sqlite:///{tmp_path / 'consumer.sqlite'}"
    upgrade(url)
    other, wire, clock, chosen = Database(url), Wire(), Clock(), _Chosen()
    consumer = open_side(wire, other, "consumer", clock, behaviour=chosen)
    provider = open_side(wire, database, "provider", clock, behaviour=chosen)
    provider.service.catalog.publish(dataset())
    yield _Pair(wire, consumer, provider, chosen)
    other.close()


def _machine(pair: _Pair) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        """What operators, senders and the wire may do, in any order."""

        def __init__(self) -> None:
            super().__init__()
            self.known = {name: set(_all(pair.side(name))) for name in ("consumer", "provider")}
            self.fates: list[str] = []
            pair.wire.fate = self.fate

        def fate(self, _method: str, url: str, _body: str) -> str:
            fate = self.fates.pop(0) if self.fates else "deliver"
            # An answer that is lost, and the peer's next messages come before we know it: they overtake the answer.
            if fate == "overtake":
                pair.wire.then = lambda: self.answer_at_once(url)
                return "deliver"
            return fate

        def answer_at_once(self, url: str) -> None:
            pair.wire.then = None
            asked = pair.provider if url.startswith(pair.provider.address) else pair.consumer
            while asked.do_one():
                pass

        def mine(self, name: str, kind: Kind) -> list[Any]:
            return [value for pid, value in _all(pair.side(name), kind).items() if pid not in self.known[name]]

        @initialize(automatic=st.booleans())
        def begin(self, automatic: bool) -> None:  # noqa: FBT001 - hypothesis names it
            pair.chosen.behaviour = AutomaticBehaviour() if automatic else ManualBehaviour()
            self.request()

        @rule()
        def request(self) -> None:
            pair.consumer.service.negotiations.request(pair.provider.counterparty, asking(dataset()))

        @rule()
        def offer(self) -> None:
            pair.provider.service.negotiations.offer(pair.consumer.counterparty, dataset().id)

        @rule(fates=FATES)
        def weather(self, fates: list[str]) -> None:
            self.fates = fates

        @rule(who=WHO, which=st.integers(0, 5))
        def work(self, who: str, which: int) -> None:
            side = pair.side(who)
            # A later piece may go first: messages of different processes overtake each other, and questions do.
            side.bell.work.rotate(-(which % max(1, len(side.bell.work))))
            side.do_one()

        @rule(seconds=st.sampled_from([1.0, 40.0]))
        def time_passes(self, seconds: float) -> None:
            pair.consumer.clock.advance(seconds)
            for side in (pair.consumer, pair.provider):
                side.sweep()

        @rule(who=WHO, which=st.integers(0, 3), step=st.sampled_from(["approve", "counter", "terminate"]))
        def decide(self, who: str, which: int, step: str) -> None:
            found = self.mine(who, Kind.NEGOTIATION)
            if not found:
                return
            desk, pid = pair.side(who).service.negotiations, found[which % len(found)].pid
            with contextlib.suppress(ContractError):
                if step == "counter":
                    desk.counter(pid, asking(dataset()) if who == "consumer" else dataset().offer)
                elif step == "terminate":
                    desk.terminate(pid, ("enough",))
                else:
                    desk.approve(pid)

        @precondition(
            lambda self: any(n.state is NegotiationState.FINALIZED for n in self.mine("consumer", Kind.NEGOTIATION))
        )
        @rule()
        def transfer(self) -> None:
            agreed = [n for n in self.mine("consumer", Kind.NEGOTIATION) if n.state is NegotiationState.FINALIZED]
            pair.consumer.service.transfers.request(agreed[0].agreement.id, "FederatedTraining")

        @rule(who=WHO, step=st.sampled_from(["suspend", "resume", "complete", "terminate"]))
        def steer(self, who: str, step: str) -> None:
            for found in self.mine(who, Kind.TRANSFER)[:1]:
                with contextlib.suppress(ContractError):
                    getattr(pair.side(who).service.transfers, step)(found.pid)

        def teardown(self) -> None:
            self.fates = []
            settle(pair.consumer, pair.provider, seconds=2400, step=60)
            for kind in Kind:
                _alike(self.mine("consumer", kind), self.mine("provider", kind))
            for name in ("consumer", "provider"):
                for value in [*self.mine(name, Kind.NEGOTIATION), *self.mine(name, Kind.TRANSFER)]:
                    _said_and_taken(pair, name, value)

    return Machine


def _all(side: Side, kind: Kind | None = None) -> dict[str, Any]:
    kinds = Kind if kind is None else (kind,)
    return {value.pid: value for one in kinds for value in side.store.processes(one, ALL).items}


def _alike(ours: list[Any], theirs: list[Any]) -> None:
    """Both sides of each process are in the same state; one that the other side never saw has ended."""
    by_pid = {value.pid: value for value in theirs}
    for value in ours:
        other = by_pid.pop(value.peer_pid, None) or next((v for v in theirs if v.peer_pid == value.pid), None)
        if other is None:
            assert value.state == "TERMINATED", value
        else:
            by_pid.pop(other.pid, None)
            assert value.state == other.state, (value, other)
            if getattr(value, "agreement", None) and value.state is NegotiationState.FINALIZED:
                assert value.agreement == other.agreement
    assert all(value.state == "TERMINATED" for value in by_pid.values()), by_pid


def _said_and_taken(pair: _Pair, name: str, value: Any) -> None:
    """The history follows the table, nothing is left to say, and no message went out under two ids."""
    side = pair.side(name)
    rows = side.store.deliveries(value.pid)
    assert not [row for row in rows if row.status is OutboxStatus.QUEUED]
    assert len({row.message_id for row in rows}) == len(rows)
    events = side.store.events(value.pid)
    sent = Counter(event.step for event in events if event.direction == "sent")
    assert Counter(_step(row) for row in rows) == sent
    state: Any = None
    for event in events:
        if event.direction != "reconciled":
            sender = value.role if event.direction == "sent" else value.role.other
            assert _after(value, sender, state, event.step) == event.state, events
        state = (NegotiationState if hasattr(value, "offer") else TransferState)(event.state)
    assert state == value.state


def _step(row: OutboxRow) -> str:
    return row.step


def _after(value: Any, sender: Role, state: Any, step: str) -> Any:
    if hasattr(value, "offer"):
        return states.after(sender, state, states.NegotiationStep(step))
    return transfers.after(sender, state, transfers.TransferStep(step))


def test_whatever_both_sides_do_at_once_they_end_alike(pair: _Pair) -> None:
    """Terminations cross agreements, requests cross offers, answers come before their questions are done with."""
    run_state_machine_as_test(
        _machine(pair),
        settings=settings(
            max_examples=25,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
