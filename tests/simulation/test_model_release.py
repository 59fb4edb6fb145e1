"""The policy is asked once more when a model leaves its job, and no model leaves that one provider does not release."""

import json
from pathlib import Path
from typing import Any

import pytest

from learning import provide
from learning.errors import StepFailedError, UnknownError
from learning.jobs import Job, JobState
from learning.release import say
from learning.rounds import Round, RoundState
from tests.support.federation import Federation, Member, open_federation, school
from tests.support.federation_rooms import COLLECTOR


def test_a_model_that_one_provider_keeps_is_released_to_nobody(tmp_path: Path) -> None:
    """A denial at release ends the job with its reason, although enough others took part in the last round."""
    with open_federation(tmp_path, 4) as federation:
        federation.members[
            school(1)
        ].keeps_model = "cohortFloor: asked fewer than 50, the offer allows only at least 50"
        job = federation.finish(federation.start())
    assert job.state is JobState.FAILED
    assert job.report is None
    assert job.reason is not None
    assert "the model may not be released" in job.reason
    assert "only at least 50" in job.reason


def leave_after_the_first_round(federation: Federation, job_id: str) -> Member:
    """Let a school that holds no seat leave once it has contributed to a round; return it."""

    def first_done() -> bool:
        rows = federation.collector.node.store.run("test", lambda records: records.select(Round, job_id))
        return any(row.state is RoundState.DONE for row in rows)

    federation.settle(until=first_done)
    job = federation.collector.node.store.run("test", lambda records: records.get(Job, job_id))
    assert job is not None
    assert job.manifest is not None
    # Of three seats of which one may collude, all three have to sign: without one of them there are no more rounds.
    seats = job.manifest["payload"]["seats"]
    leaver = next(member for name, member in sorted(federation.members.items()) if name not in {*seats, COLLECTOR})
    leaver.fails = StepFailedError("not-allowed", "the agreement was ended")
    provide.stop(leaver.node, job_id, "its school has withdrawn the agreement")
    return leaver


def report_of(federation: Federation, job: Job) -> dict[str, Any]:
    """Return the payload of a job's report."""
    assert job.report is not None, job.reason
    payload: dict[str, Any] = json.loads(federation.collector.node.blobs.get(job.report))["payload"]
    return payload


def test_a_provider_that_left_before_the_release_is_asked_and_can_keep_the_model(tmp_path: Path) -> None:
    """Its learners' records are in the model: a school that withdrew after round 1 still says no for everybody."""
    with open_federation(tmp_path, 5) as federation:
        job_id = federation.start()
        leaver = leave_after_the_first_round(federation, job_id)
        leaver.keeps_model = "agreement: it was ended: the school leaves"
        job = federation.finish(job_id)
    assert job.state is JobState.FAILED
    assert job.reason is not None
    assert "agreement: it was ended: the school leaves" in job.reason


@pytest.mark.parametrize("silent", [False, True])
def test_a_provider_that_left_and_lets_the_model_go_or_is_silent_is_named(tmp_path: Path, silent: bool) -> None:  # noqa: FBT001 - pytest's way
    """The report says of everybody who contributed and was not in the last round whether they agreed."""
    with open_federation(tmp_path, 5) as federation:
        job_id = federation.start()
        leaver = leave_after_the_first_round(federation, job_id)
        leaver.down = silent
        job = federation.finish(job_id)
        payload = report_of(federation, job)
    word = {"released": [] if silent else [leaver.name], "silent": [leaver.name] if silent else []}
    assert payload["left_before_release"] == word


def test_only_the_owner_of_a_job_may_ask_for_its_release(tmp_path: Path) -> None:
    """Another member learns nothing of what a provider's policy says."""
    with open_federation(tmp_path, 4) as federation:
        job_id = federation.start()
        federation.finish(job_id)
        member = federation.members[school(2)]
        assert say(member.node, COLLECTOR, job_id) == {"allowed": True, "reasons": []}
        with pytest.raises(UnknownError):
            say(member.node, school(3), job_id)
