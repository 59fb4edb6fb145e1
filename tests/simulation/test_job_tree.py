"""Whole jobs over an execution tree between real nodes: exact sums, whoever is lost on the way."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learning.jobs import Job, JobState
from learning.placing import own_manifest
from learning.rounds import ChildShare, Round, SeatParcel, SeatRound, SeatShare, SeatUpload, Step
from tests.support.federation import Federation, open_federation

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
            envelope = (named.get("headers") or {}).get("Orchard-Upload")
            if (
                envelope
                and json.loads(__import__("base64").urlsafe_b64decode(envelope))["document"]["payload"]["contributor"]
                == name
            ):
                sent[name] = sent.get(name, 0) + bool(named.get("content"))
            return whole(*args, **named)

        line.call = count  # type: ignore[method-assign]
    job = ten.finish(ten.start(aggregation=TREE, rounds=1))
    assert job.state is JobState.COMPLETED
    assert all(times <= 2 for times in sent.values())
    assert sum(sent.values()) >= 10
