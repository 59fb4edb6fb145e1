"""Whole jobs over an execution tree between real nodes: exact sums, whoever is lost on the way."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from learning.aggregate import sign
from learning.errors import RefusedError, StepFailedError, UnknownError
from learning.handing import MOST_SHARES, receive_child_share
from learning.jobs import JOB_ENDS, Job, JobLine, JobState
from learning.node import Node
from learning.placing import own_manifest
from learning.rounds import ChildShare, Round, RoundState, SeatParcel, SeatRound, SeatShare, SeatUpload, Step
from learning.secagg.inner import InnerSet
from learning.secagg.packing import vector_digest
from learning.tree import ExecutionTree
from tests.support.federation import Federation, open_federation
from tests.support.federation_rooms import COLLECTOR

TREE = {"mode": "tree", "seats": 5, "threshold": 2}


@pytest.fixture
def ten(tmp_path: Path) -> Iterator[Federation]:
    """Give a collector and ten schools."""
    with open_federation(tmp_path, 10) as federation:
        yield federation


def rounds(federation: Federation, job_id: str) -> list[Round]:
    """Return the attempts of a job at its collector."""
    return federation.collector.node.store.run("test", lambda records: records.select(Round, job_id))


def errors(federation: Federation) -> list[Any]:
    """Return the unexpected failures of every node."""
    return [(member.name, *error) for member in federation.members.values() for error in member.errors]


def running(federation: Federation, job_id: str, number: int = 1) -> bool:
    """Say whether the job has come to this round."""
    job = federation.job(job_id)
    return job.state is not JobState.RECRUITING and job.round >= number


def calm(folder: Path, schools: int, **plan: Any) -> Job:
    """Return the same job where nothing goes wrong."""
    folder.mkdir()
    with open_federation(folder, schools) as federation:
        return federation.finish(federation.start(**plan))


def test_tree_star_and_clear_make_the_same_model(tmp_path: Path) -> None:
    """How sums are made changes no bit of the model, and no metric."""
    results = []
    for mode in ("tree", "star", "clear"):
        (tmp_path / mode).mkdir()
        with open_federation(tmp_path / mode, 6) as federation:
            aggregation = {"mode": mode, "seats": 3, "threshold": 1}
            job = federation.finish(federation.start(aggregation=aggregation))
            assert (job.state, job.reason, errors(federation)) == (JobState.COMPLETED, None, [])
            results.append((job.weights, [row.metrics for row in rounds(federation, job.job_id)]))
            if mode == "tree":
                tree = own_manifest(federation.collector.node, job.manifest).tree
                assert tree is not None
                assert len(tree.leaves) >= 2
                assert all(len(row.groups) == len(tree.names) for row in rounds(federation, job.job_id))
    assert results[0] == results[1] == results[2]


LEARNERS = {"granularity": "learner", "weight_cap": 16, "max_learners": 1000, "cohort_floor": 5}


def test_learners_contribute_one_by_one(tmp_path: Path) -> None:
    """Every learner is a contributor of its own, in a tree as in a star, under a name that says nothing."""
    results = []
    for mode in ("tree", "star"):
        (tmp_path / mode).mkdir()
        with open_federation(tmp_path / mode, 6, **{f"school_{number}": 12 for number in range(1, 7)}) as federation:
            aggregation = {"mode": mode, "seats": 3, "threshold": 1}
            job_id = federation.start(aggregation=aggregation, **LEARNERS)
            federation.settle(until=lambda federation=federation, job_id=job_id: running(federation, job_id, 2))
            parcels = [
                name
                for member in federation.schools()
                for row in member.node.store.run("test", lambda records: records.select(SeatParcel))
                for name, *_ in row.accepted
            ]
            assert parcels
            assert {name.partition("#")[0] for name in parcels} <= set(federation.members)
            assert not any("learner" in name for name in parcels)
            job = federation.finish(job_id)
            assert (job.state, job.reason, errors(federation)) == (JobState.COMPLETED, None, [])
            rows = rounds(federation, job.job_id)
            assert [row.counted for row in rows] == [72, 72, 72]
            assert all(len(row.proposed or ()) == 6 for row in rows)
            results.append((job.weights, [row.metrics for row in rows]))
    assert results[0] == results[1]


def test_nothing_of_a_round_is_left_when_the_job_has_ended(ten: Federation) -> None:
    """Parcels, children's shares, kept shares and packages are erased at every node, rows and blobs."""
    job = ten.finish(ten.start(aggregation=TREE, **LEARNERS))
    assert job.state is JobState.COMPLETED
    for member in ten.members.values():
        for kind in (SeatUpload, SeatParcel, SeatShare, ChildShare):
            assert member.node.store.run("test", lambda records, kind=kind: records.select(kind)) == []
        assert all(not row.shares for row in member.node.store.run("test", lambda records: records.select(SeatRound)))
        assert all(step.package is None for step in member.node.store.run("test", lambda records: records.select(Step)))
    for member in ten.schools():
        assert list(member.node.blobs.folder.glob("??/*")) == []  # type: ignore[attr-defined]


def test_a_vector_leaves_its_contributor_once(ten: Federation) -> None:
    """Upload is one masked vector: seats that store copies get them from the first carrier."""
    sent: dict[str, int] = {}
    for member in ten.schools():
        line = member.node.peers
        whole = line.call

        def count(*args: Any, name: str = member.name, whole: Callable[..., Any] = whole, **named: Any) -> Any:
            head = (named.get("headers") or {}).get("Orchard-Upload")
            envelope = json.loads(base64.urlsafe_b64decode(head)) if head else {}
            # What a seat hands on to other seats names no further copies, be it the seat's own contribution.
            if envelope.get("copies") and envelope["document"]["payload"]["contributor"] == name:
                sent[name] = sent.get(name, 0) + bool(named.get("content"))
            return whole(*args, **named)

        line.call = count  # type: ignore[method-assign]
    job = ten.finish(ten.start(aggregation=TREE, rounds=1))
    assert job.state is JobState.COMPLETED
    assert all(times <= 2 for times in sent.values())
    assert sum(sent.values()) >= 10


def test_a_seat_hands_up_no_more_shares_than_losses_explain(ten: Federation) -> None:
    """One seat cannot fill the disk of the seat above it with shares it signs; its kept ones may come again."""
    job_id = ten.start(aggregation=TREE)
    ten.settle(until=lambda: bool(handed_up(ten)))
    node, row = handed_up(ten)[0]
    signer, payload = ten.members[row.seat].node.signer, row.document["payload"]
    size = len(node.blobs.get(row.vector))

    def hand_up(number: int) -> str:
        vector = number.to_bytes(size, "little")
        document = signer.sign("secagg-share", payload | {"vector": vector_digest(vector)})
        receive_child_share(node, job_id, row.round, row.attempt, row.group, document, vector)
        return vector_digest(vector)

    for number in range(1, MOST_SHARES):
        hand_up(number)
    with pytest.raises(RefusedError) as refused:
        hand_up(MOST_SHARES)
    assert refused.value.code == "too-many-shares"
    with pytest.raises(UnknownError):
        node.blobs.get(vector_digest(MOST_SHARES.to_bytes(size, "little")))
    assert node.blobs.get(hand_up(1)) == (1).to_bytes(size, "little")
    own = [one for found, one in handed_up(ten) if found is node and (one.group, one.seat) == (row.group, row.seat)]
    assert len(own) == MOST_SHARES


def test_an_inner_seat_says_what_it_lacks_and_signs_nothing_by_that(ten: Federation) -> None:
    """Asked without a signature, it names the children whose listed share is not there, or none; no set is signed."""
    job_id = ten.start(aggregation=TREE)
    ten.settle(until=lambda: bool(handed_up(ten)))
    node, row = handed_up(ten)[0]
    tree = tree_in(ten, job_id)
    column = tree.column_of(node.participant_id)
    assert column is not None
    here = InnerSet.of({row.group: [(column, row.digest)]})
    more = InnerSet.of({row.group: [(column, row.digest), (column, "ab" * 32)]})
    for proposed, missing in ((here, []), (more, [row.group])):
        body = {"group": tree.parent(row.group), "children": proposed.to_json(), "sign": False}
        answer = sign(node, ten.collector.node.participant_id, job_id, row.round, row.attempt, body)
        assert answer == {"missing": missing}
    signed = node.store.run("test", lambda records: records.select(SeatRound, job_id, row.round, row.attempt))
    assert all(one.group != tree.parent(row.group) for one in signed)


def handed_up(federation: Federation) -> list[tuple[Node, ChildShare]]:
    """Return the shares that seats of the tree keep for others, with who keeps them."""
    return [
        (member.node, share)
        for member in federation.members.values()
        for share in member.node.store.run("test", lambda records: records.select(ChildShare))
    ]


def tree_in(federation: Federation, job_id: str) -> ExecutionTree:
    """Return the tree of a job that has begun."""
    federation.settle(until=lambda: running(federation, job_id))
    found = own_manifest(federation.collector.node, federation.job(job_id).manifest).tree
    assert found is not None
    return found


def state_of(federation: Federation, job_id: str) -> str:
    """Return the state of the newest attempt."""
    found = rounds(federation, job_id)
    return str(found[-1].state) if found else ""


def finished_round(federation: Federation, job_id: str) -> Round:
    """Return round 1 once its sum is opened."""
    federation.settle(until=lambda: federation.job(job_id).round > 1 or federation.job(job_id).state in JOB_ENDS)
    done = [row for row in rounds(federation, job_id) if row.round == 1]
    assert done[-1].state is RoundState.DONE, (federation.job(job_id).reason, [row.reason for row in done])
    return done[-1]


def silence(federation: Federation, names: set[str]) -> None:
    """Let seats sign, and never hear of anything or say anything afterwards."""
    quiet = ("POST release", "POST shares", "POST receipts", "POST resend")
    federation.fate = lambda sender, receiver, what, _time: (
        "drop" if names & {sender, receiver} and what in quiet else "deliver"
    )


ONE = {"aggregation": TREE, "rounds": 1, "round_seconds": 120.0, "round_attempts": 1}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Return the weights of one round of ten schools where nothing goes wrong."""
    return calm(tmp_path_factory.mktemp("calm") / "ten", 10, **ONE).weights


def test_a_lost_leaf_seat_is_made_up_for(ten: Federation, expected: str) -> None:
    """A leaf's seat that signs and then vanishes: its co-holders release its part, and the next round has another seat."""
    job_id = ten.start(**ONE)
    tree = tree_in(ten, job_id)
    leaf = tree.leaves[0]
    silence(ten, {tree.seat(leaf, 2)} - {tree.seat("0", 2)})
    row = finished_round(ten, job_id)
    assert ten.job(job_id).weights == expected
    facts = {one["group"]: one for one in row.groups}
    assert facts[leaf]["lost"] == [2]
    assert ten.job(job_id).replaced[leaf] == {"2": 1}
    ten.fate = lambda *_call: "deliver"
    job = ten.finish(job_id)
    assert (job.state, job.reason) == (JobState.COMPLETED, None)
    assert rounds(ten, job_id)[-1].replaced[leaf] == {"2": 1}


def test_a_lost_inner_seat_is_replaced(ten: Federation, expected: str) -> None:
    """The next of the column's ring takes the inner seat; the children's seats send it the shares that they keep."""
    job_id = ten.start(**ONE)
    tree = tree_in(ten, job_id)
    lost = tree.seat("0", 1)
    held = {name for name in tree.leaves if tree.seat(name, 1) == lost}
    silence(ten, {lost})
    row = finished_round(ten, job_id)
    assert ten.job(job_id).weights == expected
    facts = {one["group"]: one for one in row.groups}
    assert facts["0"]["replaced"] == {"1": 1}
    assert facts["0"]["seats"][1] != lost
    assert all(facts[name]["lost"] == [1] for name in held)
    ten.fate = lambda *_call: "deliver"
    assert ten.finish(job_id).state is JobState.COMPLETED


def test_more_losses_than_the_seeds_survive_are_replaced_with_seeds_sealed_again(
    ten: Federation, expected: str
) -> None:
    """With three of five seats of a leaf gone, the third is replaced; providers seal their seeds anew, nothing else."""
    job_id = ten.start(**ONE)
    tree = tree_in(ten, job_id)
    leaf = next(name for name in tree.leaves if tree.seat(name, 0) != tree.seat("0", 0))
    # Copies of a vector lie in three columns side by side: of those that are left each vector has one.
    silence(ten, {tree.seat(leaf, column) for column in (0, 1, 3)})
    row = finished_round(ten, job_id)
    assert ten.job(job_id).weights == expected
    facts = {one["group"]: one for one in row.groups}
    assert len(facts[leaf]["lost"]) == 2
    assert len(facts[leaf]["in_this_round"]) == 1
    whats = [what for _, _, what, status in ten.calls if status < 300]
    assert "POST reseals" in whats
    ten.fate = lambda *_call: "deliver"
    assert ten.finish(job_id).state is JobState.COMPLETED


def test_a_cut_between_two_halves_heals(ten: Federation, expected: str) -> None:
    """For a minute no call crosses from one half to the other; then everybody repeats, and the sum is the same."""
    job_id = ten.start(**ONE)
    tree_in(ten, job_id)
    half = {member.name for member in ten.schools()[:5]}
    healed = ten.clock() + timedelta(seconds=15)
    ten.fate = lambda sender, receiver, _what, _time: (
        "drop" if (sender in half) is not (receiver in half) and ten.clock() < healed else "deliver"
    )
    finished_round(ten, job_id)
    assert ten.job(job_id).weights == expected
    assert ten.finish(job_id).state is JobState.COMPLETED


@pytest.mark.parametrize("what", ["POST set", "POST release", "POST rounds"])
@pytest.mark.parametrize("how", ["crash", "crash-after"])
def test_a_collector_that_dies_goes_on_where_it_was(ten: Federation, expected: str, what: str, how: str) -> None:
    """The collector's worker dies in the middle of its calls; who takes over asks the same again, and no bit changes."""
    job_id = ten.start(**ONE)
    died: list[str] = []

    def fate(sender: str, receiver: str, call: str, _time: int) -> str:
        if sender == COLLECTOR and call == what and len(died) < 2 and receiver not in died:
            died.append(receiver)
            return how
        return "deliver"

    ten.fate = fate
    finished_round(ten, job_id)
    assert died
    assert ten.job(job_id).weights == expected


@pytest.mark.parametrize("lost", [[], [0, 1]])
def test_a_wrong_copy_is_found_out_when_it_is_needed_and_costs_its_holder_alone(
    ten: Federation, expected: str, lost: list[int]
) -> None:
    """Copies wait for their hash: a wrong one harms nothing while its first carrier lives, and then the next is taken."""
    job_id = ten.start(**ONE)
    tree = tree_in(ten, job_id)
    manifest = own_manifest(ten.collector.node, ten.job(job_id).manifest)
    leaf = next(name for name in tree.leaves if not {tree.seat(name, c) for c in (0, 1)} & set(tree.seats("0")))
    seats = tree.seats(leaf)
    spoilt: list[str] = []

    def spoil(call: Callable[..., Any]) -> Callable[..., Any]:
        def handed(target: str, *args: Any, **named: Any) -> Any:
            head = (named.get("headers") or {}).get("Orchard-Upload")
            envelope = json.loads(base64.urlsafe_b64decode(head)) if head else {}
            payload = envelope.get("document", {}).get("payload", {})
            copy = bool(named.get("content")) and not envelope.get("copies")
            if target == seats[1] and copy and manifest.leaf_of(payload["contributor"]) == leaf:
                spoilt.append(payload["contributor"])
                named["content"] = bytes(byte ^ 1 for byte in named["content"])
            return call(target, *args, **named)

        return handed

    for member in ten.schools():
        member.node.peers.call = spoil(member.node.peers.call)  # type: ignore[method-assign]
    if lost:
        # Its copies go to the next column, which has only wrong ones, and then to the one after that.
        silence(ten, {seats[0]})
    row = finished_round(ten, job_id)
    assert spoilt
    assert ten.job(job_id).weights == expected
    facts = {one["group"]: one for one in row.groups}
    assert facts[leaf]["lost"] == lost


def test_too_few_in_a_leaf_leaves_the_leaf_out(ten: Federation) -> None:
    """A leaf group below its floor is left out by name; the others' sum is opened."""
    job_id = ten.start(**ONE | {"min_contributors": 3})
    tree = tree_in(ten, job_id)
    manifest = own_manifest(ten.collector.node, ten.job(job_id).manifest)
    leaf = tree.leaves[-1]
    for name in manifest.leaf_members(leaf)[1:]:
        ten.members[name].fails = StepFailedError("source-gone", "the source is gone")
    row = finished_round(ten, job_id)
    facts = {one["group"]: one for one in row.groups}
    assert (facts[leaf]["state"], facts[leaf]["inside"]) == ("LEFT_OUT", False)
    inside = {name for other in tree.leaves if other != leaf for name in manifest.leaf_members(other)}
    assert {name for name, _ in row.proposed or ()} == inside
    lines = ten.collector.node.store.run("test", lambda records: records.select(JobLine, job_id))
    assert any(f"left out: group {leaf}" in line.text for line in lines)


def test_a_first_carrier_that_hears_late_gets_what_another_took(ten: Federation, expected: str) -> None:
    """Two seats hear of the round half a minute late: the next carrier has the vectors meanwhile, and copies them to them."""
    job_id = ten.start(**ONE)
    tree = tree_in(ten, job_id)
    late = {tree.seat(tree.leaves[0], 0), tree.seat(tree.leaves[0], 1)}
    begun = ten.clock()
    ten.fate = lambda _sender, receiver, what, _time: (
        "drop"
        if receiver in late and what == "POST rounds" and ten.clock() < begun + timedelta(seconds=30)
        else "deliver"
    )
    row = finished_round(ten, job_id)
    assert ten.job(job_id).weights == expected
    assert all(group["lost"] == [] for group in row.groups)
