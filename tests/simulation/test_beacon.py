"""The beacon between real nodes: who does not reveal is left out, and nobody gains a choice by it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from learning import pledge, provide
from learning.errors import RefusedError
from learning.jobs import JobState, Member, MemberState
from learning.members import load
from tests.support.federation import Federation, open_federation, school
from tests.support.federation_rooms import COLLECTOR


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Federation]:
    """Give a collector and four schools."""
    with open_federation(tmp_path, 4) as federation:
        yield federation


def member(federation: Federation, job_id: str, name: str) -> Member:
    """Return a member as the collector knows it."""
    _, _, members = load(federation.collector.node, job_id)
    return {one.participant_id: one for one in members}[name]


def silent(federation: Federation, *names: str) -> None:
    """Let some schools commit and never reveal."""
    federation.fate = lambda _sender, receiver, what, _time: (
        "drop" if receiver in names and what == "POST reveal" else "deliver"
    )


def test_who_does_not_reveal_is_left_out_and_all_others_commit_afresh(four: Federation) -> None:
    """The seats are drawn from new commitments: the one that vanished could not choose between two outcomes."""
    silent(four, school(2))
    job_id = four.start(recruit_seconds=3.0)
    four.settle(until=lambda: member(four, job_id, school(1)).reveal is not None)
    before = member(four, job_id, school(1)).approval
    job = four.finish(job_id)
    assert job.state is JobState.COMPLETED
    assert member(four, job_id, school(2)).state is MemberState.LEFT
    assert (member(four, job_id, school(2)).reason or "").startswith("did not reveal")
    assert job.manifest is not None
    payload = job.manifest["payload"]
    assert payload["terms"]["epoch"] == 1
    after = {one["approval"]["payload"]["participant"]: one["approval"]["payload"] for one in payload["members"]}
    assert sorted(after) == [school(1), school(3), school(4)]
    assert before is not None
    assert before["payload"]["beacon_commitment"] != after[school(1)]["beacon_commitment"]
    assert before["payload"]["hpke_public"] == after[school(1)]["hpke_public"]


def test_epochs_are_few(tmp_path: Path) -> None:
    """When one member after the other commits and stays silent, the job ends and says so."""
    with open_federation(tmp_path, 8) as federation:
        silent(federation, *(school(number) for number in range(3, 9)))
        job = federation.finish(federation.start(recruit_seconds=3.0))
        assert job.state is JobState.FAILED
        assert "committed and did not reveal" in (job.reason or "")


def test_a_commitment_is_opened_for_one_set_of_members(four: Federation) -> None:
    """Who has revealed neither reveals for other members in the same epoch nor accepts a manifest over others."""
    job_id = four.start()
    four.settle(until=lambda: member(four, job_id, school(1)).reveal is not None)
    node = four.members[school(1)].node
    part = provide.part_of(node, job_id)
    with pytest.raises(RefusedError, match="another set of members"):
        pledge.reveal(node, part, {"epoch": 0, "commitments": "ab" * 32})
    with pytest.raises(RefusedError, match="epoch 0"):
        pledge.reveal(node, part, {"epoch": 1, "commitments": part.beacon_fixed})
    with pytest.raises(RefusedError, match="fixed"):
        pledge.reveal(node, part, {"epoch": 0})
    own = part.approval
    assert own is not None
    with pytest.raises(RefusedError, match="whose commitments were shown"):
        pledge.check_commitments(part, 0, {school(1): own["payload"]})


def test_an_epoch_follows_the_last_one(four: Federation) -> None:
    """A provider commits afresh for the next epoch only, the same again for a repeat, and never once it has begun."""
    silent(four, school(4))
    job_id = four.start()
    four.settle(until=lambda: member(four, job_id, school(1)).reveal is not None)
    node = four.members[school(1)].node
    plan = provide.plan_of(node, provide.part_of(node, job_id))

    def commit(epoch: int) -> str:
        body = {"epoch": epoch}
        found = pledge.commit_afresh(node, plan, provide.part_of(node, job_id, COLLECTOR), body)
        assert found.approval is not None
        return str(found.approval["payload"]["beacon_commitment"])

    with pytest.raises(RefusedError):
        commit(2)
    assert commit(1) == commit(1)
    assert len({commit(1), commit(2), commit(3)}) == 3
    with pytest.raises(RefusedError):
        commit(4)
    with pytest.raises(RefusedError):
        commit(1)


def test_sealing_keys_of_past_rounds_are_erased(four: Federation) -> None:
    """When a round is over its sealing key cannot be made again from what a provider still has."""
    job_id = four.start(rounds=3)
    epochs = set()

    def look() -> bool:
        job = four.job(job_id)
        texts = [one.part(job_id).sealing_key for one in four.schools() if job.state is JobState.RUNNING]
        epochs.update(int(text.split()[1]) for text in texts if text)
        return False

    four.settle(until=look)
    assert four.job(job_id).state is JobState.COMPLETED
    assert epochs == {0, 1, 2, 3}
