"""What a provider refuses a collector that does not keep to the rules: second sets, models, manifests, old rounds."""

import base64
import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from connector.storage.database import Database
from connector.storage.learning import SqlLearningStore
from learning import aggregate, contribute, provide
from learning.errors import ConflictError, LearningError, RefusedError, UnknownError
from learning.jobs import Job, Member, Participation
from learning.rounds import OPENING_KIND, SeatRound, SeatState, SeatUpload, Step
from policies.canonical import sha256_hex
from policies.signing import document_digest
from tests.support.federation import COLLECTOR, Federation, open_federation, school


@pytest.fixture
def agreed(tmp_path: Path) -> Iterator[tuple[Federation, str]]:
    """Give a federation of three schools, and a job of it whose first round every seat has signed and none released."""
    with open_federation(tmp_path, 3) as federation:
        federation.fate = lambda _sender, _receiver, what, _time: "drop" if what == "POST release" else "deliver"
        job_id = federation.start()
        federation.settle(until=lambda: signed(federation, job_id))
        yield federation, job_id


def signed(federation: Federation, job_id: str) -> bool:
    """Say whether every school has signed a set."""
    return all(
        member.node.store.run("test", lambda records: records.select(SeatRound, job_id))
        for member in federation.schools()
    )


def opening(federation: Federation, job_id: str, weights: bytes, **changes: Any) -> dict[str, Any]:
    """Return a round opening that the collector signs."""
    job = federation.job(job_id)
    payload = {
        "job": job_id,
        "manifest": document_digest(job.manifest or {}),
        "round": 1,
        "attempt": 1,
        "kind": "train",
        "model": sha256_hex(weights),
        "deadline": "2026-11-21T13:00:00+00:00",
    }
    return federation.collector.node.signer.sign(OPENING_KIND, payload | changes)


def open_round(federation: Federation, job_id: str, weights: bytes, **changes: Any) -> Step:
    """Open a round at the first school."""
    document = opening(federation, job_id, weights, **changes)
    key = federation.collector.node.signer.public_key
    return contribute.open_round(federation.members[school(1)].node, COLLECTOR, key, job_id, document, weights)


def first_model(federation: Federation, job_id: str) -> bytes:
    """Return the model of round 1."""
    return federation.collector.node.blobs.get(federation.job(job_id).weights or "")


def test_a_second_set_of_a_round_is_refused(agreed: tuple[Federation, str]) -> None:
    """A seat that signed a set signs no other contributors in that round: two sums could be subtracted."""
    federation, job_id = agreed
    node = federation.members[school(1)].node
    uploads = node.store.run("test", lambda records: records.select(SeatUpload, job_id, 1, 1))
    pairs = [[upload.participant_id, upload.header_digest] for upload in uploads]
    assert len(pairs) == 3
    again = aggregate.sign(node, COLLECTOR, job_id, 1, 1, {"uploads": pairs})
    (row,) = node.store.run("test", lambda records: records.select(SeatRound, job_id, 1, 1))
    assert again == row.set_document
    with pytest.raises(RefusedError, match="already has a signed set"):
        aggregate.sign(node, COLLECTOR, job_id, 1, 1, {"uploads": pairs[:2]})


def test_a_second_model_for_a_round_is_refused(agreed: tuple[Federation, str]) -> None:
    """A contributor trains one model a round, whatever the attempt; the same opening again gets the same step."""
    federation, job_id = agreed
    weights = first_model(federation, job_id)
    assert open_round(federation, job_id, weights).state == "DONE"
    with pytest.raises(RefusedError) as caught:
        open_round(federation, job_id, weights + b"\0", attempt=2)
    assert caught.value.code == "second-model"


def test_a_round_that_is_over_is_not_opened_again(tmp_path: Path) -> None:
    """A new attempt at an earlier round is refused: it could sum without a learner who has withdrawn since."""
    with open_federation(tmp_path, 3) as federation:
        job_id = federation.start()
        weights = {}
        federation.settle(
            until=lambda: federation.job(job_id).round == 1 and federation.job(job_id).weights is not None
        )
        weights[1] = first_model(federation, job_id)
        federation.settle(until=lambda: _steps(federation, job_id, 2))
        with pytest.raises(RefusedError) as caught:
            open_round(federation, job_id, weights[1], attempt=2)
        assert caught.value.code == "round-over"


def _steps(federation: Federation, job_id: str, number: int) -> bool:
    node = federation.members[school(1)].node
    return bool(node.store.run("test", lambda records: records.select(Step, job_id, number)))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"manifest": "ab" * 32}, "wrong-manifest"),
        ({"job": "urn:uuid:other"}, "wrong-manifest"),
        ({"round": 9}, "no-such-round"),
        ({"attempt": 9}, "no-such-round"),
        ({"kind": "evaluate"}, "wrong-kind"),
        ({"model": "ab" * 32}, "wrong-model"),
        ({"round": "first"}, "bad-opening"),
        ({"kind": "guess"}, "bad-opening"),
    ],
)
def test_an_opening_that_does_not_fit_the_plan_is_refused(
    agreed: tuple[Federation, str], change: dict[str, Any], code: str
) -> None:
    """Manifest, number, kind and model of a round are what the plan and the manifest say, or nothing is trained."""
    federation, job_id = agreed
    with pytest.raises(RefusedError) as caught:
        open_round(federation, job_id, first_model(federation, job_id), **change)
    assert caught.value.code == code


def test_an_opening_signed_by_somebody_else_is_refused(agreed: tuple[Federation, str]) -> None:
    """Only the collector opens rounds."""
    federation, job_id = agreed
    weights = first_model(federation, job_id)
    document = opening(federation, job_id, weights)
    other = federation.members[school(2)].node.signer.public_key
    with pytest.raises(RefusedError) as caught:
        contribute.open_round(federation.members[school(1)].node, COLLECTOR, other, job_id, document, weights)
    assert caught.value.code == "bad-opening"


def test_a_second_manifest_is_refused(agreed: tuple[Federation, str]) -> None:
    """The accepted manifest may come again; one that is not what its inputs give may not come at all."""
    federation, job_id = agreed
    node, job = federation.members[school(1)].node, federation.job(job_id)
    manifest = job.manifest or {}
    assert provide.accept_manifest(node, COLLECTOR, job_id, manifest) == "ACTIVE"
    other = dict(manifest["payload"]) | {"n_min": 3}
    document = federation.collector.node.signer.sign(manifest.get("kind", "manifest"), other)
    with pytest.raises(RefusedError):
        provide.accept_manifest(node, COLLECTOR, job_id, document)


def test_a_part_that_ended_accepts_no_manifest(tmp_path: Path) -> None:
    """A provider that left before the manifest came says so; it does not fail."""
    with open_federation(tmp_path, 3) as federation:
        node = federation.members[school(1)].node

        def leave(_sender: str, receiver: str, what: str, _time: int) -> str:
            if (receiver, what) == (school(1), "POST manifest"):
                for part in node.store.run("test", lambda records: records.select(Participation)):
                    provide.stop(node, part.job_id, "our operator said so")
            return "deliver"

        federation.fate = leave
        job = federation.finish(federation.start())
        assert job.state == "FAILED"
        assert "this participation is STOPPED" in (job.reason or "")


def test_strangers_find_nothing(agreed: tuple[Federation, str]) -> None:
    """A job that exists and one that does not look the same to who has no part in it."""
    federation, job_id = agreed
    node = federation.members[school(1)].node
    for job in (job_id, "urn:uuid:nowhere"):
        with pytest.raises(UnknownError, match="no such job"):
            provide.part_of(node, job, school(2))
        with pytest.raises(UnknownError, match="no such job"):
            aggregate.sign(node, school(2), job, 1, 1, {"uploads": []})


def test_a_job_id_belongs_to_who_used_it_first(agreed: tuple[Federation, str]) -> None:
    """Another agreement or plan under a known job id is a conflict."""
    federation, job_id = agreed
    node = federation.members[school(1)].node
    part = provide.part_of(node, job_id)
    changed = dataclasses.replace(part, agreement_id="urn:agreement:other")
    node.store.run("test", lambda records: records.save(changed))
    caller = node.check_membership(COLLECTOR)
    with pytest.raises(ConflictError, match="in use"):
        provide.join(node, caller, "urn:t", part.agreement_id, {"job_id": job_id, "plan_digest": part.plan_digest})


def test_two_sets_at_once_get_one_signature(agreed: tuple[Federation, str], database: Database) -> None:
    """On both databases: of two different sets proposed at the same moment, a seat signs one."""
    federation, job_id = agreed
    node = federation.members[school(1)].node
    copied = SqlLearningStore(database, lambda _task, _key: None, federation.clock)

    def copy(records: Any) -> list[Any]:
        kinds = (Participation, Step, SeatUpload)
        return [row for kind in kinds for row in records.select(kind)]

    for row in node.store.run("test", copy):
        copied.run("test", lambda records, row=row: records.add(row))
    seat = dataclasses.replace(node, store=copied)
    uploads = copied.run("test", lambda records: records.select(SeatUpload, job_id, 1, 1))
    pairs = [[upload.participant_id, upload.header_digest] for upload in uploads]
    start = threading.Barrier(2)

    def sign(proposal: list[list[str]]) -> str:
        start.wait(timeout=10)
        try:
            aggregate.sign(seat, COLLECTOR, job_id, 1, 1, {"uploads": proposal})
        except LearningError as error:
            return error.code
        return "signed"

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(sign, [pairs, pairs[:2]]))
    assert sorted(answers) == ["secagg-second-set", "signed"]


def test_the_collector_refuses_what_is_not_a_members(agreed: tuple[Federation, str]) -> None:
    """Notices and shares of strangers, and shares before the set is final, change nothing."""
    federation, job_id = agreed
    stranger = federation.join("did:web:stranger.example")
    line = stranger.node.peers
    notice = line.call(COLLECTOR, "POST", f"/jobs/{job_id}/rounds/1/attempts/1/notices", json={"uploaded": True})
    assert (notice.status, notice.body["code"]) == (404, "not-found")
    head = base64.urlsafe_b64encode(b'{"document": {}}').decode()
    share = line.call(
        COLLECTOR, "POST", f"/jobs/{job_id}/rounds/1/attempts/1/shares", content=b"", headers={"Orchard-Share": head}
    )
    assert (share.status, share.body["code"]) == (404, "not-found")
    members = federation.collector.node.store.run("test", lambda records: records.select(Member, job_id))
    assert len(members) == 3
    assert federation.collector.node.store.run("test", lambda records: records.select(Job)) != []


def test_a_seat_owes_nothing_for_a_round_that_is_erased(agreed: tuple[Federation, str]) -> None:
    """A release that is tried again after its round's boxes were erased ends quietly: the sum was made without it."""
    federation, job_id = agreed
    node = federation.members[school(1)].node

    def erase(records: Any) -> None:
        (row,) = records.select(SeatRound, job_id, 1)
        uploads = [[school(1), "ab" * 32], [school(2), "ab" * 32]]
        order = {"set": uploads, "statements": [], "lost": [], "blank": [], "to": None, "replaced": None}
        records.save(dataclasses.replace(row, state=SeatState.RELEASING, release_order=order))
        for upload in records.select(SeatUpload, job_id):
            records.delete(upload)

    node.store.run("test", erase)
    assert aggregate.release_share(node, f"{job_id}|1|1|0") is None
