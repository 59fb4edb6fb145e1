"""The policy watch over a real participant: what has ended is suspended or terminated, and expired consents are noted."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from connector.cli.main import app
from connector.drivers.outbox import SilentDoorbell
from connector.drivers.policy_watch import SUSPENDED, PolicyWatch
from connector.foundation import lay_foundation
from connector.rooms import NoTrainer, Rooms, lay_rooms
from contracts.agreement import agreement_digest
from contracts.messages import Agreement
from contracts.processes import AgreementRecord, Counterparty, Transfer
from contracts.states import Role
from contracts.transfers import TransferState
from learning.jobs import Participation, ParticipationState
from policies.duties import Begins, Duty, DutyState
from tests.support.consents import Clock
from tests.support.participants import enrol

AGREEMENT, PID = "urn:uuid:agreement", "urn:uuid:transfer"
PEER = Counterparty(participant_id="did:web:ai.example", address="http://ai.example/dsp/2025-1")


def atom(left: str, operator: str, right: object) -> dict[str, Any]:
    """Return an atomic constraint."""
    return {"leftOperand": left, "operator": operator, "rightOperand": right}


@dataclasses.dataclass(kw_only=True)
class Watched:
    """A provider with one running transfer."""

    rooms: Rooms
    watch: PolicyWatch
    clock: Clock
    folder: Path

    def orchard(self, *arguments: str) -> Result:
        """Run a command of `orchard policy` in this participant's folder."""
        name, *rest = arguments
        return CliRunner().invoke(app, ["policy", name, str(self.folder), *rest])

    def look(self, **later: float) -> Transfer:
        """Let time pass, look, and return the transfer."""
        self.clock.advance(**later)
        self.watch.look()
        found = self.rooms.contracts.store.transfer(PID)
        assert found is not None
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Give a provider whose agreement ends after a year and asks for deletion within 30 days."""
    settings = enrol(tmp_path / "elm", tmp_path / "space", name="Elm School", port=8471)
    clock = Clock()
    # The membership was issued by this machine's clock.
    clock.time = start = datetime.now(UTC)
    foundation = lay_foundation(settings, now=clock)
    watch = PolicyWatch(clock)
    rooms = lay_rooms(
        foundation,
        ring=lambda _task, _key: None,
        doorbell=SilentDoorbell(),
        trainer=NoTrainer(),
        on_consent=watch.changed,
    )
    watch.serve(rooms)
    until = (start + timedelta(days=365)).isoformat()
    duty = {"action": "delete", "constraint": [atom("elapsedTime", "lteq", "P30D")]}
    rule = {"action": "use", "constraint": [atom("dateTime", "lteq", until)], "duty": [duty]}
    agreement = Agreement(
        id=AGREEMENT,
        target="urn:d",
        assigner=settings.participant.id,
        assignee=PEER.participant_id,
        rules={"permission": [rule]},
    )
    record = AgreementRecord(
        agreement=agreement,
        digest=agreement_digest(agreement),
        role=Role.PROVIDER,
        counterparty=PEER,
        negotiation_pid="urn:uuid:negotiation",
        concluded_at=start,
    )
    transfer = Transfer(
        pid=PID,
        role=Role.PROVIDER,
        state=TransferState.STARTED,
        counterparty=PEER,
        dataset_id="urn:d",
        agreement_id=AGREEMENT,
        format="FederatedTraining",
        created_at=start,
        updated_at=start,
        peer_pid="urn:uuid:theirs",
    )
    rooms.contracts.store.run("test.agreement", lambda unit: unit.add_agreement(record))
    rooms.contracts.store.run("test.transfer", lambda unit: unit.add(transfer, act_at=None))
    yield Watched(rooms=rooms, watch=watch, clock=clock, folder=settings.folder)
    foundation.close()


def test_an_overdue_duty_suspends_and_its_fulfilment_goes_on(watched: Watched) -> None:
    """The transfer runs until the duty is overdue, waits, and runs again once there is evidence."""
    assert watched.look().state is TransferState.STARTED
    (duty,) = watched.rooms.duties.all(AGREEMENT)
    late = watched.look(days=31)
    assert late.state is TransferState.SUSPENDED
    assert late.reasons[0] == SUSPENDED
    assert "delete" in late.reasons[1]
    watched.rooms.duties.fulfil(duty.duty_id, {"log": "sha256:1"}, watched.clock())
    assert watched.look(seconds=1).state is TransferState.STARTED


def test_an_operator_sees_and_fulfils_a_duty_by_command(watched: Watched) -> None:
    """The overdue duty comes first and fails the listing; its proof is written once, and the transfer goes on."""
    now = watched.clock()
    # Concluded long ago, so that the duty is overdue by this machine's clock too, which the command goes by.
    late = Duty(
        duty_id="f" * 64,
        agreement_id=AGREEMENT,
        kind="http://www.w3.org/ns/odrl/2/compensate",
        holder=PEER.participant_id,
        terms="",
        created_at=now - timedelta(days=60),
        due_at=now - timedelta(days=1),
    )
    assert watched.look().state is TransferState.STARTED
    watched.rooms.duties.note({AGREEMENT: [late]}, now)
    assert watched.look().state is TransferState.SUSPENDED
    listed = watched.orchard("duties")
    assert listed.exit_code == 1
    first, second = listed.output.splitlines()
    assert first.startswith("ffffffffffff\toverdue\tcompensate")
    assert "\topen\tdelete" in second
    unnamed = watched.orchard("fulfil", "", "--proof", "x")
    assert str(unnamed.exception) == "2 duties are called ''; orchard policy duties shows them"
    done = watched.orchard("fulfil", "fff", "--proof", "invoice 7", "--amount", "12.5", "--json")
    assert json.loads(done.output)["evidence"] == {"proof": "invoice 7", "amount": 12.5}
    assert watched.orchard("duties").exit_code == 0
    assert watched.look(seconds=1).state is TransferState.STARTED


def test_a_duty_after_a_job_begins_when_the_job_has_ended(watched: Watched) -> None:
    """Each job that read rows brings one; a job that never began brings none; looking again brings nothing."""
    watched.look()
    length = timedelta(days=30)
    waiting = Duty(
        duty_id="a" * 64,
        agreement_id=AGREEMENT,
        kind="http://www.w3.org/ns/odrl/2/delete",
        holder=PEER.participant_id,
        terms="",
        created_at=watched.clock(),
        begins=Begins.JOB_END,
        length=length,
    )
    watched.rooms.duties.note({AGREEMENT: [waiting]}, watched.clock())
    ended = watched.clock()
    for job, manifest in (("urn:uuid:one", {"payload": {}}), ("urn:uuid:two", None)):
        part = Participation(
            job_id=job,
            plan_digest="b" * 64,
            agreement_id=AGREEMENT,
            dataset_id="urn:d",
            transfer_pid=PID,
            consumer=PEER.participant_id,
            consumer_organisation="AI",
            consumer_key="",
            state=ParticipationState.ENDED,
            created_at=ended,
            updated_at=ended,
            manifest=manifest,
        )
        watched.rooms.node.store.run("test.part", lambda records, part=part: records.add(part))
    for _ in range(2):
        watched.look(days=1)
        (duty,) = [one for one in watched.rooms.duties.all(AGREEMENT) if one.job_id]
        assert (duty.job_id, duty.due_at) == ("urn:uuid:one", ended + length)


def test_ending_an_agreement_begins_what_is_owed_after_it(watched: Watched) -> None:
    """A duty that counts from the agreement's end counts from the day on which it was ended."""
    watched.look()
    waiting = Duty(
        duty_id="a" * 64,
        agreement_id=AGREEMENT,
        kind="http://www.w3.org/ns/odrl/2/delete",
        holder=PEER.participant_id,
        terms="",
        created_at=watched.clock(),
        begins=Begins.AGREEMENT_END,
        length=timedelta(days=10),
    )
    watched.rooms.duties.note({AGREEMENT: [waiting]}, watched.clock())
    watched.clock.advance(days=3)
    watched.rooms.duties.cancel(AGREEMENT, "the school leaves", watched.clock())
    begun = next(one for one in watched.rooms.duties.all(AGREEMENT) if one.duty_id == waiting.duty_id)
    assert begun.due_at == watched.clock() + timedelta(days=10)
    assert begun.state_at(watched.clock()) is DutyState.OPEN


def test_a_pause_of_the_operator_is_not_the_watchs_to_end(watched: Watched) -> None:
    """What an operator has paused stays paused."""
    watched.rooms.contracts.transfers.suspend(PID)
    assert watched.look(days=1).state is TransferState.SUSPENDED


@pytest.mark.parametrize("how", ["ended", "expired"])
def test_an_agreement_that_is_over_ends_its_transfers(watched: Watched, how: str) -> None:
    """An agreement that a party has ended, or whose period is over, terminates what runs under it, with the reason."""
    watched.look()
    (duty,) = watched.rooms.duties.all(AGREEMENT)
    watched.rooms.duties.fulfil(duty.duty_id, {"log": "sha256:1"}, watched.clock())
    if how == "ended":
        watched.rooms.duties.cancel(AGREEMENT, "the school leaves", watched.clock())
    found = watched.look(days=1 if how == "ended" else 366)
    assert found.state is TransferState.TERMINATED
    assert ("the school leaves" if how == "ended" else "dateTime") in found.reasons[0]
