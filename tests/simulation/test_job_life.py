"""Whole jobs between real nodes: what the collector learns, who is in it, and how every job ends."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from learning import ending, provide
from learning.errors import StepFailedError
from learning.jobs import JobLine, JobState, MemberState, Participation, ParticipationState
from learning.members import load
from learning.rounds import ClearUpload, Round, RoundState, SeatShare, SeatUpload, Step
from tests.support.federation import Federation, open_federation, school


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Federation]:
    """Give a collector and three schools."""
    with open_federation(tmp_path, 3) as federation:
        yield federation


def rounds(federation: Federation, job_id: str) -> list[Round]:
    """Return the attempts of a job at its collector."""
    return federation.collector.node.store.run("test", lambda records: records.select(Round, job_id))


def running(federation: Federation, job_id: str, number: int = 1) -> bool:
    """Say whether the job has come to this round."""
    job = federation.job(job_id)
    return job.state is not JobState.RECRUITING and job.round >= number


def end_transfer(federation: Federation, member: str, state: str, reason: str) -> None:
    """End a school's transfer process from the provider's side."""
    (pid,) = [pid for pid, found in federation.transfers.items() if found["agreement"].endswith(member)]
    federation.collector.node.contracts.end_transfer(pid, state, reason)  # type: ignore[attr-defined]


def test_a_job_completes_and_everybody_hears(three: Federation) -> None:
    """Three schools train two rounds, the report is signed, every part ends, every transfer is completed."""
    job = three.finish(three.start())
    assert (job.state, job.reason) == (JobState.COMPLETED, None)
    assert job.report is not None
    assert [(row.round, row.attempt, row.kind, row.state) for row in rounds(three, job.job_id)] == [
        (1, 1, "train", "DONE"),
        (2, 1, "train", "DONE"),
        (3, 1, "evaluate", "DONE"),
    ]
    assert {member.part(job.job_id).state for member in three.schools()} == {"ENDED"}
    assert {transfer["state"] for transfer in three.transfers.values()} == {"COMPLETED"}
    assert [error for member in three.members.values() for error in member.errors] == []


def test_nothing_of_a_round_is_left_when_the_job_has_ended(three: Federation) -> None:
    """Boxes, packages, masked vectors and shares are erased on both sides; models and the report stay with the owner."""
    job = three.finish(three.start())
    for member in three.members.values():
        for kind in (SeatUpload, SeatShare, ClearUpload):
            assert member.node.store.run("test", lambda records, kind=kind: records.select(kind)) == []
        steps = member.node.store.run("test", lambda records: records.select(Step))
        assert {step.package for step in steps} <= {None}
    for member in three.schools():
        assert [path for path in (member.federation.folder / member.name).rglob("*") if path.is_file()] == []
        assert (member.part(job.job_id).sealing_key, member.part(job.job_id).beacon_reveal) == ("", "")


@pytest.mark.parametrize("strategy", [{"kind": "fedavg"}, {"kind": "fedadam"}])
def test_the_secure_sum_is_the_clear_sum(tmp_path: Path, strategy: dict[str, str]) -> None:
    """The same plan with and without masks gives the same model, byte for byte, and the same metrics."""
    results = []
    for mode in ("star", "clear"):
        (tmp_path / mode).mkdir()
        with open_federation(tmp_path / mode, 3) as federation:
            job = federation.finish(federation.start(aggregation={"mode": mode}, strategy=strategy))
            assert job.state is JobState.COMPLETED
            results.append((job.weights, [row.metrics for row in rounds(federation, job.job_id)]))
    assert results[0] == results[1]


def test_two_schools_make_the_smallest_group(tmp_path: Path) -> None:
    """Two organisations can only make the group of two seats; the job completes, with the warning in its report."""
    with open_federation(tmp_path, 2) as federation:
        job = federation.finish(federation.start())
        assert job.state is JobState.COMPLETED
        report = json.loads(federation.collector.node.blobs.get(job.report or ""))
        assert "the loss of either ends the round" in " ".join(report["payload"]["warnings"])


def test_k_of_n_are_enough(three: Federation) -> None:
    """A school whose step fails is left out of the round, with its reason; the others are summed."""
    three.members[school(2)].fails = StepFailedError("source-gone", "the source is gone")
    job = three.finish(three.start())
    assert job.state is JobState.COMPLETED
    for row in rounds(three, job.job_id):
        assert [name for name, _ in row.proposed or ()] == [school(1), school(3)]
    lines = three.collector.node.store.run("test", lambda records: records.select(JobLine, job.job_id))
    assert "round 1: school-2 could not contribute: source-gone: the source is gone" in [line.text for line in lines]


def test_too_few_contributions_end_the_job_with_the_reason(three: Federation) -> None:
    """Attempts are capped: when nobody can train, the job fails and says why."""
    for member in three.schools():
        member.fails = StepFailedError("source-gone", "the source is gone")
    job = three.finish(three.start(round_attempts=2))
    assert job.state is JobState.FAILED
    assert job.reason is not None
    assert job.reason.startswith("after 2 attempts, round 1: 0 of 3 contributions, 2 needed")
    assert "source-gone: the source is gone" in job.reason
    assert [row.state for row in rounds(three, job.job_id)] == [RoundState.ABORTED] * 2


def test_a_step_that_keeps_failing_is_given_up(three: Federation) -> None:
    """A failure that may pass is tried again, five times at most; then the collector hears of it."""
    three.members[school(1)].fails = StepFailedError("unavailable", "no sandbox", final=False)
    job = three.finish(three.start(rounds=1))
    assert job.state is JobState.COMPLETED
    tries = [task for task, _ in three.members[school(1)].errors]
    assert tries == ["learning.contribute"] * 10
    assert [len(row.proposed or ()) for row in rounds(three, job.job_id)] == [2, 2]


def test_a_withdrawn_consent_counts_from_the_next_round(three: Federation) -> None:
    """Rows of a learner who withdraws are read in no round that begins afterwards."""
    job_id = three.start(rounds=3)
    three.settle(until=lambda: running(three, job_id, 2))
    member = three.members[school(1)]
    before = frozenset(member.subjects)
    member.subjects.discard("learner-0")
    job = three.finish(job_id)
    assert job.state is JobState.COMPLETED
    assert {number for number, subjects in member.used if "learner-0" in subjects} <= {1, 2}
    assert [subjects for number, subjects in member.used if number > 2] == [before - {"learner-0"}] * 2


def test_a_school_below_the_floor_says_no_to_the_round(three: Federation) -> None:
    """When too few learners consent any more, the gate refuses, and the round goes on without that school."""
    job_id = three.start()
    three.settle(until=lambda: running(three, job_id, 2))
    three.members[school(3)].subjects.clear()
    job = three.finish(job_id)
    assert job.state is JobState.COMPLETED
    assert school(3) not in [name for name, _ in rounds(three, job_id)[-1].proposed or ()]


def test_a_job_waits_for_the_floor_and_then_begins(three: Federation) -> None:
    """Recruiting waits while too few learners consent anywhere, and goes on by itself when they do."""
    late = three.members[school(1)]
    late.subjects.clear()
    job_id = three.start()
    three.settle(10.0)
    assert three.job(job_id).state is JobState.RECRUITING
    _, _, members = load(three.collector.node, job_id)
    assert {member.reason for member in members if member.state is not MemberState.READY} == {
        "waiting until enough learners consent"
    }
    late.subjects |= {"a", "b", "c"}
    assert three.finish(job_id).state is JobState.COMPLETED


def test_who_never_reaches_the_floor_is_left_out(three: Federation) -> None:
    """When the time for recruiting is over the job begins with those who are ready, and the others' parts end."""
    three.members[school(1)].subjects.clear()
    job = three.finish(three.start(recruit_seconds=5.0))
    assert job.state is JobState.COMPLETED
    _, _, members = load(three.collector.node, job.job_id)
    assert {m.participant_id: m.state for m in members}[school(1)] is MemberState.LEFT
    assert three.members[school(1)].part(job.job_id).state is ParticipationState.ENDED
    assert {transfer["state"] for transfer in three.transfers.values()} == {"COMPLETED"}


def test_too_few_consents_end_the_job(three: Federation) -> None:
    """With fewer members than the plan needs, the job fails and names the members and their reasons."""
    for number in (1, 2):
        three.members[school(number)].subjects.clear()
    job = three.finish(three.start(recruit_seconds=5.0))
    assert job.state is JobState.FAILED
    assert job.reason is not None
    assert job.reason.startswith("1 of 2 contributors needed remain")
    assert "school-1: not ready after 5 s: waiting until enough learners consent" in job.reason


def test_a_refused_plan_leaves_the_school_out(three: Federation) -> None:
    """A provider whose agreement is for another purpose refuses; its reason is in the job."""
    job = three.finish(three.start(purpose="https://w3id.org/dpv#Marketing"))
    assert job.state is JobState.FAILED
    assert "refused the plan: purpose: the plan says https://w3id.org/dpv#Marketing" in (job.reason or "")


def test_a_plan_waits_for_its_approval_by_hand(tmp_path: Path) -> None:
    """Where approval is manual the plan is pending until the operator decides; a refusal leaves the school out."""
    with open_federation(tmp_path, 2) as federation:
        by_hand = federation.join(school(3), automatic_approval=False)
        job_id = federation.start()
        federation.settle(5.0)
        digest = federation.job(job_id).plan_digest
        assert federation.job(job_id).state is JobState.RECRUITING
        provide.decide_plan(by_hand.node, digest, f"urn:agreement:{school(3)}", approve=True, reason=None)
        assert federation.finish(job_id).state is JobState.COMPLETED
        assert by_hand.part(job_id).state is ParticipationState.ENDED


def test_a_seat_lost_after_agreement_is_taken_over(tmp_path: Path) -> None:
    """With five seats of which two may collude, one that signs and then vanishes is replaced by its co-holders."""
    with open_federation(tmp_path, 5) as federation:
        job_id = federation.start(rounds=1, aggregation={"seats": 5, "threshold": 2}, round_seconds=120.0)
        silent = school(2)
        federation.fate = lambda sender, receiver, what, _time: (
            "drop" if silent in (sender, receiver) and what in ("POST release", "POST shares") else "deliver"
        )
        federation.settle(until=lambda: federation.job(job_id).round > 1)
        federation.fate = lambda *_call: "deliver"
        first = rounds(federation, job_id)[0]
        assert (first.state, first.attempt, len(first.proposed or ())) == (RoundState.DONE, 1, 5)
        assert len(first.lost) == 1
        expected = federation.finish(job_id)
    (tmp_path / "calm").mkdir()
    with open_federation(tmp_path / "calm", 5) as calm:
        job = calm.finish(calm.start(rounds=1, aggregation={"seats": 5, "threshold": 2}, round_seconds=120.0))
        assert (job.state, job.weights) == (expected.state, expected.weights)


def test_a_seat_that_is_a_moment_behind_keeps_its_place(tmp_path: Path) -> None:
    """A seat that does not answer the first time it is asked to sign is asked again before its work goes to others."""
    with open_federation(tmp_path, 5) as federation:
        federation.fate = lambda _sender, receiver, what, time: (
            "drop" if receiver == school(2) and what == "POST set" and time == 1 else "deliver"
        )
        job = federation.finish(federation.start(rounds=2, aggregation={"seats": 5, "threshold": 2}))
        assert job.state is JobState.COMPLETED
        assert [row.lost for row in rounds(federation, job.job_id)] == [(), (), ()]


def test_a_seat_lost_before_the_uploads_is_done_without(tmp_path: Path) -> None:
    """With five seats, contributors give up one that nobody reaches, a quorum signs, and the sum is opened."""
    with open_federation(tmp_path, 5) as federation:
        job_id = federation.start(rounds=1, aggregation={"seats": 5, "threshold": 2}, round_seconds=9.0)
        federation.settle(until=lambda: running(federation, job_id))
        federation.members[school(2)].down = True
        federation.settle(until=lambda: federation.job(job_id).round > 1)
        first = rounds(federation, job_id)[0]
        assert (first.state, first.attempt, len(first.proposed or ())) == (RoundState.DONE, 1, 4)
        assert len(first.lost) == 1


def test_a_seat_lost_for_ever_ends_a_group_of_three(three: Federation) -> None:
    """With three seats every one must sign: without it attempts are used up and the job fails, saying so."""
    job_id = three.start(round_seconds=6.0, round_attempts=2)
    three.settle(until=lambda: running(three, job_id, 2))
    three.members[school(1)].down = True
    job = three.finish(job_id)
    assert job.state is JobState.FAILED
    assert (job.reason or "").startswith("after 2 attempts, ")
    assert {transfer["state"] for transfer in three.transfers.values()} == {"COMPLETED"}


def _state(federation: Federation, job_id: str) -> set[str]:
    return {str(row.state) for row in rounds(federation, job_id)}


def test_a_provider_that_is_gone_leaves_no_transfer_open(three: Federation) -> None:
    """When the job ends while a provider is down, its transfer process is closed all the same."""
    job_id = three.start()
    three.settle(until=lambda: running(three, job_id))
    three.members[school(3)].down = True
    ending.fail_job(three.collector.node, job_id, "enough")
    three.settle(600.0)
    assert {transfer["state"] for transfer in three.transfers.values()} == {"COMPLETED"}


def test_a_job_cancelled_while_it_recruits_closes_what_it_opened(three: Federation) -> None:
    """A job that is cancelled between two steps of recruiting leaves no transfer process and no part under way."""
    job_id = three.start()
    node = three.collector.node

    def cancel(sender: str, receiver: str, what: str, time: int) -> str:
        if what == "POST jobs" and three.job(job_id).state is JobState.RECRUITING:
            ending.fail_job(node, job_id, "cancelled")
        return "deliver"

    three.fate = cancel
    three.settle(900.0)
    assert three.job(job_id).state is JobState.FAILED
    assert {transfer["state"] for transfer in three.transfers.values()} == {"COMPLETED"}
    for member in three.schools():
        parts = member.node.store.run("test", lambda records: records.select(Participation))
        assert {part.state for part in parts} <= {ParticipationState.ENDED, ParticipationState.STOPPED}


def test_a_provider_that_stops_is_left_out_of_later_rounds(tmp_path: Path) -> None:
    """A school that leaves during the job refuses further rounds; where it holds no needed seat the job goes on."""
    with open_federation(tmp_path, 5) as federation:
        job_id = federation.start(aggregation={"seats": 5, "threshold": 2}, round_seconds=9.0)
        federation.settle(until=lambda: running(federation, job_id, 2))
        end_transfer(federation, school(4), "TERMINATED", "the school said so")
        job = federation.finish(job_id)
        assert job.state is JobState.COMPLETED
        last = rounds(federation, job_id)[-1]
        assert school(4) not in [name for name, _ in last.proposed or ()]
        assert federation.members[school(4)].part(job_id).state is ParticipationState.STOPPED


def test_a_job_outlives_its_transfer_tokens(three: Federation) -> None:
    """Tokens are good for fifteen minutes; the collector renews them and no round fails for it."""
    job_id = three.start(rounds=3, recruit_seconds=7200.0)
    three.settle(until=lambda: running(three, job_id, 2))
    three.clock.advance(3600)
    job = three.finish(job_id)
    assert job.state is JobState.COMPLETED
    assert [status for _, _, what, status in three.calls if what == "POST tokens"] != []


def test_a_collector_that_stood_still_hears_everybody_first(three: Federation) -> None:
    """After a stop beyond the round's deadline, contributors that uploaded are counted, and no attempt is wasted."""
    job_id = three.start(rounds=1)
    three.settle(until=lambda: _state(three, job_id) == {"TRAINING"})
    three.collector.down = True
    three.settle(5.0)
    three.clock.advance(200.0)
    three.collector.down = False
    job = three.finish(job_id)
    assert job.state is JobState.COMPLETED
    assert [row.attempt for row in rounds(three, job_id)] == [1, 1]


def test_a_collector_that_never_comes_back_is_left(three: Federation) -> None:
    """Every part ends on the provider's side, too: when the plan's own time for the job is over."""
    job_id = three.start(job_seconds=600.0, round_seconds=6.0)
    three.settle(until=lambda: running(three, job_id))
    three.collector.down = True
    three.settle(2000.0)
    for member in three.schools():
        part = member.part(job_id)
        assert (part.state, part.sealing_key) == (ParticipationState.STOPPED, "")
        assert "its collector did not end it" in (part.reason or "")


def test_a_job_that_takes_too_long_ends(three: Federation) -> None:
    """The manifest's end is the job's: no round opens after it."""
    job_id = three.start(job_seconds=600.0)
    three.settle(until=lambda: running(three, job_id, 2))
    three.clock.advance(700.0)
    job = three.finish(job_id)
    assert job.state is JobState.FAILED
    assert job.reason is not None


def test_a_ready_member_that_vanishes_does_not_hold_the_job_for_ever(three: Federation) -> None:
    """A member that was ready and does not reveal is left out when the time for recruiting is over."""
    vanished = school(2)
    three.fate = lambda _sender, receiver, what, _time: (
        "drop" if (receiver, what) == (vanished, "POST reveal") else "deliver"
    )
    job = three.finish(three.start(recruit_seconds=3.0))
    assert job.state is JobState.COMPLETED
    _, _, members = load(three.collector.node, job.job_id)
    (left,) = [member for member in members if member.state is MemberState.LEFT]
    assert left.participant_id == vanished
    assert (left.reason or "").startswith("did not reveal")


def test_the_report_is_signed_and_holds_no_single_providers_numbers(three: Federation) -> None:
    """What the collector knows of a member is its name, its state and its seat."""
    job = three.finish(three.start())
    report = json.loads(three.collector.node.blobs.get(job.report or ""))["payload"]
    assert {tuple(sorted(member)) for member in report["members"]} == {
        ("name", "participant", "reason", "seat", "state")
    }
    assert report["rounds"][0]["contributors"] == [school(1), school(2), school(3)]
    assert report["weights"] == job.weights
