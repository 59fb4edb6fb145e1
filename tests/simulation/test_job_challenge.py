"""Seats that give out a wrong share, between real nodes: found by a sketch challenge, convicted by a file, named."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learning import aggregate, challenges
from learning.errors import NotYetError, RefusedError, UnknownError
from learning.jobs import Job, JobLine, JobState
from learning.rounds import Round, SeatRound, SketchAnswers
from learning.secagg.evidence import check_evidence
from learning.secagg.packing import pack, reduce, ring_dtype, unpack
from learning.secagg.seat import release
from learning.secagg.shares import Share, sign_share
from learning.sketches import receive_answers, take_challenge
from tests.support.federation import Federation, open_federation
from tests.support.federation_rooms import COLLECTOR

STAR = {"mode": "star", "seats": 5, "threshold": 2, "challenges": 1.0}
TREE = STAR | {"mode": "tree"}
ONE_ROUND: dict[str, Any] = {"rounds": 1}
LITTLE, MUCH = 1, 1 << 31


@pytest.fixture
def six(tmp_path: Path) -> Iterator[Federation]:
    """Give a collector and six schools."""
    with open_federation(tmp_path, 6) as federation:
        yield federation


def bend(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[str, str], bool], by: int) -> list[str]:
    """Let the first leaf seat that ``chosen`` (seat, group) says add ``by`` to a value of its shares; return who it is."""
    cheats: list[str] = []

    def bent(proposed: Any, statements: Any, **given: Any) -> Share:
        honest, signer, context = release(proposed, statements, **given), given["signer"], given["context"]
        if not cheats and chosen(signer.kid, context.group):
            cheats.append(signer.kid)
        if signer.kid not in cheats:
            return honest
        values = unpack(honest.vector, context.d, context.k).copy()
        # A slice wraps around without a warning, as the ring does.
        values[:1] += ring_dtype(context.k).type(by)
        data = pack(reduce(values, context.k), context.k)
        return sign_share(signer, proposed, data, context=context, lost=given["lost"], released=given["released"])

    monkeypatch.setattr(aggregate, "release", bent)
    return cheats


def anybody(_seat: str, _group: str) -> bool:
    """Choose whoever comes first."""
    return True


def lines(federation: Federation, job_id: str) -> list[str]:
    """Return what the job's timeline says."""
    found = federation.collector.node.store.run("test", lambda records: records.select(JobLine, job_id))
    return [line.text for line in found]


def errors(federation: Federation) -> list[Any]:
    """Return the unexpected failures of every node."""
    return [(member.name, *error) for member in federation.members.values() for error in member.errors]


def convicted(federation: Federation, job: Job, culprit: str) -> None:
    """Check that the job ended by the culprit's name, and that a file alone convicts it."""
    assert (job.state, errors(federation)) == (JobState.FAILED, [])
    assert federation.collector.node.peers.name(culprit) in (job.reason or "")
    files = challenges.evidence_of(federation.collector.node, job.job_id)
    assert [file["seat"] for file in files] == [culprit]
    verdict = check_evidence(files[0]["document"])
    assert (verdict.kind, verdict.culprit, verdict.job) == ("wrong-share", culprit, job.job_id)


@pytest.mark.parametrize(("mode", "schools"), [("star", 6), ("tree", 10)])
def test_a_challenge_that_finds_nothing_changes_no_bit_and_leaves_nothing(
    tmp_path: Path, mode: str, schools: int
) -> None:
    """Every round is challenged, every share is right, the model is the same, and no sketch is kept."""
    weights = []
    for name, share in (("challenged", 1.0), ("trusted", 0.0)):
        (tmp_path / name).mkdir()
        with open_federation(tmp_path / name, schools) as federation:
            job = federation.finish(
                federation.start(aggregation=STAR | {"mode": mode, "challenges": share}, **ONE_ROUND)
            )
            assert (job.state, job.reason, errors(federation)) == (JobState.COMPLETED, None, [])
            weights.append(job.weights)
            said = [line for line in lines(federation, job.job_id) if "shares challenged" in line]
            assert len(said) == (2 if share else 0)
            if share:
                assert all(" 0 of" not in line for line in said)
            for member in federation.members.values():
                assert member.node.store.run("test", lambda records: records.select(SketchAnswers)) == []
    assert weights[0] == weights[1]


def test_a_share_that_is_a_little_wrong_convicts_its_seat(six: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value off by one step of the grid: no range shows it, four other seats do."""
    cheats = bend(monkeypatch, anybody, LITTLE)
    job = six.finish(six.start(aggregation=STAR, **ONE_ROUND))
    convicted(six, job, cheats[0])


def test_a_sum_that_cannot_be_right_has_the_seats_challenged(six: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that challenges nobody by chance still finds who made the sum leave its range."""
    cheats = bend(monkeypatch, anybody, MUCH)
    job = six.finish(six.start(aggregation=STAR | {"challenges": 0.0}, **ONE_ROUND))
    convicted(six, job, cheats[0])


def test_in_a_tree_the_seat_above_convicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf's share is judged by the seat that holds it; the collector gets the file and no sketch of a leaf."""
    with open_federation(tmp_path, 10) as federation:
        held: dict[str, Any] = {}

        def with_another_above(seat: str, group: str) -> bool:
            if not held:
                job = federation.job(job_id)
                held["tree"] = job.manifest["payload"]["tree"] if job.manifest else None
            groups = {item["name"]: item for item in held["tree"]["groups"]}
            parent = groups[group]["parent"]
            return parent is not None and seat not in groups[parent]["seats"]

        cheats = bend(monkeypatch, with_another_above, LITTLE)
        job_id = federation.start(aggregation=TREE, **ONE_ROUND)
        job = federation.finish(job_id)
        assert cheats
        convicted(federation, job, cheats[0])
        asked = {call for sender, receiver, call, _ in federation.calls if receiver == COLLECTOR}
        assert "POST findings" in asked
        assert "POST sketches" not in asked


def test_a_word_against_a_word_convicts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three seats each mask has one other holder: the attempt ends, and no file comes of it."""
    with open_federation(tmp_path, 4) as federation:
        cheats = bend(monkeypatch, anybody, LITTLE)
        job = federation.finish(federation.start(aggregation={**STAR, "seats": 3, "threshold": 1}, round_attempts=1))
        assert (job.state, errors(federation)) == (JobState.FAILED, [])
        assert "only one seat stands against the accused one" in (job.reason or "")
        assert cheats[0] in (job.reason or "")
        assert challenges.evidence_of(federation.collector.node, job.job_id) == []


def test_a_seat_that_does_not_answer_holds_up_nobody_for_ever(six: Federation) -> None:
    """Two others vouch for every part, so that one may be silent; the round waits for it, and goes on."""
    job_id = six.start(aggregation=STAR, **ONE_ROUND)
    six.fate = lambda sender, _receiver, call, _time: (
        "drop" if call == "POST sketches" and sender == quiet(six, job_id) else "deliver"
    )
    job = six.finish(job_id)
    assert (job.state, job.reason) == (JobState.COMPLETED, None)
    assert any("5 of 5 shares challenged" in line for line in lines(six, job_id))


def quiet(federation: Federation, job_id: str) -> str:
    """Return the holder of the star's first seat."""
    manifest = federation.job(job_id).manifest
    assert manifest is not None
    return str(manifest["payload"]["seats"][0])


def test_lost_and_doubled_messages_of_a_challenge_change_nothing(tmp_path: Path) -> None:
    """Each call of a challenge is lost once on its way out or back, or comes twice, and the job still completes."""
    fates = iter(["lose", "double", "drop"] * 1000)
    with open_federation(tmp_path, 10) as federation:
        federation.fate = lambda _sender, _receiver, call, time: (
            next(fates) if time == 1 and call in ("POST challenge", "POST sketches", "POST findings") else "deliver"
        )
        job = federation.finish(federation.start(aggregation=TREE, **ONE_ROUND))
        assert (job.state, job.reason, errors(federation)) == (JobState.COMPLETED, None, [])


def test_a_seat_answers_under_one_coin_and_only_for_what_it_released(six: Federation) -> None:
    """A second nonce, a challenge before the release, and one that names no shares are refused."""
    job_id = six.start(aggregation=STAR | {"challenges": 0.0}, **ONE_ROUND)
    body = {"group": "0", "shares": ["ab" * 32] * 5, "nonce": "cd" * 32, "holders": {}}

    def seats() -> list[tuple[Any, SeatRound]]:
        found = []
        for member in six.schools():
            rows = member.node.store.run("test", lambda records: records.select(SeatRound, job_id, 1, 1))
            found += [(member.node, row) for row in rows]
        return found

    six.fate = lambda _sender, _receiver, call, _time: "drop" if call == "POST release" else "deliver"
    six.settle(until=lambda: any(row.set_document for _, row in seats()))
    with pytest.raises(RefusedError, match="released nothing"):
        take_challenge(seats()[0][0], COLLECTOR, job_id, 1, 1, body)
    six.fate = lambda _sender, _receiver, call, _time: "drop" if call == "POST shares" else "deliver"
    six.settle(until=lambda: any(row.release_order for _, row in seats()))
    node, _ = next(found for found in seats() if found[1].release_order)
    with pytest.raises(NotYetError):
        take_challenge(node, COLLECTOR, job_id, 1, 1, body)
    six.fate = lambda _sender, _receiver, _call, _time: "deliver"
    six.settle(until=lambda: any(row.state == "RELEASED" for _, row in seats()))
    node, _ = next(found for found in seats() if found[1].state == "RELEASED")
    for bad in ({"shares": ["ab" * 32] * 4}, {"nonce": "cd"}, {"shares": "ab" * 32}, {"nonce": "XY" * 32}):
        with pytest.raises(RefusedError, match="nonce of 32 bytes"):
            take_challenge(node, COLLECTOR, job_id, 1, 1, body | bad)
    take_challenge(node, COLLECTOR, job_id, 1, 1, body)
    take_challenge(node, COLLECTOR, job_id, 1, 1, body)
    with pytest.raises(RefusedError, match="another coin"):
        take_challenge(node, COLLECTOR, job_id, 1, 1, body | {"nonce": "ef" * 32})


def test_answers_and_findings_of_strangers_are_refused(tmp_path: Path) -> None:
    """Only a seat of the group answers, only to whoever holds a share above it, and only the holder has a finding."""
    with open_federation(tmp_path, 10) as federation:
        job_id = federation.start(aggregation=TREE, **ONE_ROUND)
        federation.settle(
            until=lambda: any(
                row.challenge
                for row in federation.collector.node.store.run("test", lambda records: records.select(Round, job_id))
            )
        )
        row = federation.collector.node.store.run("test", lambda records: records.select(Round, job_id))[0]
        assert row.challenge is not None
        name, group, column, value = next(
            (name, group, column, value)
            for name, group in row.challenge["groups"].items()
            for column, value in group["columns"].items()
            if value["holder"] != value["seat"]
        )
        body = {"shares": group["shares"], "nonce": row.challenge["nonce"], "answers": {}}
        holder = federation.members[value["holder"]].node
        stranger = next(
            member.name
            for member in federation.schools()
            if member.name not in [value["holder"], *(other["seat"] for other in group["columns"].values())]
        )
        with pytest.raises(UnknownError):
            receive_answers(holder, stranger, job_id, 1, 1, name, body)
        with pytest.raises(UnknownError):
            receive_answers(holder, value["seat"], job_id, 1, 1, "0", body)
        # Nor does whoever made the share.
        with pytest.raises(UnknownError):
            receive_answers(holder, value["seat"], job_id, 1, 1, name, body)
        witness = next(other["seat"] for other in group["columns"].values() if other["seat"] != value["seat"])
        rows = holder.store.run("test", lambda records: records.select(SketchAnswers, job_id, 1, 1, name))
        first = witness not in [row.participant_id for row in rows]
        blobs = {path.name for path in holder.blobs.folder.rglob("*")}
        for times in range(3):
            receive_answers(holder, witness, job_id, 1, 1, name, body | {"answers": {column: [{"said": times}]}})
        assert len({path.name for path in holder.blobs.folder.rglob("*") if path.is_file()} - blobs) == int(first)
        finding = {"column": int(column), "finding": "WRONG", "reason": "", "evidence": {"form": "none"}}
        with pytest.raises(UnknownError):
            challenges.receive_finding(federation.collector.node, stranger, job_id, 1, 1, name, finding)
        with pytest.raises(RefusedError, match="RIGHT, WRONG"):
            challenges.receive_finding(
                federation.collector.node, value["holder"], job_id, 1, 1, name, finding | {"finding": "GUILTY"}
            )
        challenges.receive_finding(federation.collector.node, value["holder"], job_id, 1, 1, name, finding)
        job = federation.finish(job_id)
        # Calling somebody a cheat without proof ends the attempt and convicts nobody.
        assert challenges.evidence_of(federation.collector.node, job_id) == []
        assert any("shows nothing that proves it" in line for line in lines(federation, job_id))
        assert job.state is JobState.COMPLETED


def test_which_rounds_are_challenged_is_drawn_and_stays_so(six: Federation) -> None:
    """Half of the rounds by the plan: some are, some are not, whoever asks and however often."""
    job_id = six.start(aggregation=STAR | {"challenges": 0.5}, rounds=8)
    job = six.finish(job_id)
    assert job.state is JobState.COMPLETED
    said = [line for line in lines(six, job_id) if "shares challenged" in line]
    assert 0 < len(said) < 9
    assert len(set(said)) == len(said)
