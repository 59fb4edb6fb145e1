"""Jobs over a bad wire: messages lost, doubled, answered into the void, and workers that die in the middle."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from learning.errors import LearningError, RoundOverError
from learning.jobs import JOB_ENDS, JobState
from learning.rounds import Round
from tests.support.federation import Fate, Federation, open_federation, school

FAULTS = ("drop", "lose", "double")
MESSAGES = ("POST plans", "POST jobs", "POST reveal", "POST manifest", "POST rounds", "POST uploads", "POST notices")
MESSAGES += ("POST set", "POST release", "POST shares", "POST end")
SHORT = {"rounds": 1, "round_seconds": 12.0, "recruit_seconds": 30.0}


def first_times(what: str, fault: str, times: int = 1) -> Fate:
    """Return a fate that hits the first ``times`` sendings of each message of one kind."""
    return lambda _sender, _receiver, call, time: fault if call == what and time <= times else "deliver"


def schedule(seed: int, share: float) -> Fate:
    """Return a fate that hits this share of all messages, each for itself, the same way every time."""

    def fate(*call: object) -> str:
        drawn = hashlib.sha256(repr((seed, *call)).encode()).digest()
        return FAULTS[drawn[8] % 3] if int.from_bytes(drawn[:4], "big") < share * 2**32 else "deliver"

    return fate


def result(federation: Federation, job_id: str) -> tuple[str | None, list[object]]:
    """Return what a job found: its model, and contributors and metrics of each round."""
    rows = federation.collector.node.store.run("test", lambda records: records.select(Round, job_id))
    done = [row for row in rows if row.state == "DONE"]
    return federation.job(job_id).weights, [([name for name, _ in row.proposed or ()], row.metrics) for row in done]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | None, list[object]]:
    """Give the result of the short job over a good wire."""
    with open_federation(tmp_path_factory.mktemp("calm"), 3) as federation:
        job = federation.finish(federation.start(**SHORT))
        assert job.state is JobState.COMPLETED
        return result(federation, job.job_id)


@pytest.mark.parametrize("what", MESSAGES)
def test_a_message_whose_answer_is_lost_changes_nothing(
    tmp_path: Path, calm: tuple[str | None, list[object]], what: str
) -> None:
    """Each kind of message may have been heard without its sender knowing: the job gives the same model bytes."""
    with open_federation(tmp_path, 3) as federation:
        federation.fate = first_times(what, "lose")
        check(federation, calm)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_message_may_fail_once(tmp_path: Path, calm: tuple[str | None, list[object]], fault: str) -> None:
    """When every message of the job is lost, loses its answer or comes twice the first time, nothing changes."""
    with open_federation(tmp_path, 3) as federation:
        federation.fate = lambda _sender, _receiver, _call, time: fault if time == 1 else "deliver"
        check(federation, calm)


def check(federation: Federation, calm: tuple[str | None, list[object]]) -> None:
    """Run the short job: it completes with the same result as over a good wire, and leaves nothing open."""
    job = federation.finish(federation.start(**SHORT))
    assert (job.state, job.reason) == (JobState.COMPLETED, None)
    assert result(federation, job.job_id) == calm
    assert {transfer["state"] for transfer in federation.transfers.values()} == {"COMPLETED"}


@pytest.mark.parametrize("when", ["crash", "crash-after"])
@pytest.mark.parametrize(
    "what", ["POST jobs", "POST manifest", "POST rounds", "POST uploads", "POST set", "POST shares"]
)
def test_a_worker_that_dies_in_the_middle_changes_nothing(
    tmp_path: Path, calm: tuple[str | None, list[object]], what: str, when: str
) -> None:
    """A worker that dies before or after a message has arrived leaves a lease; another one goes on from the rows."""
    with open_federation(tmp_path, 3) as federation:
        federation.fate = lambda sender, receiver, call, time: (
            when if call == what and time == 1 and school(1) in (sender, receiver) else "deliver"
        )
        job = federation.finish(federation.start(**SHORT | {"round_seconds": 120.0, "recruit_seconds": 120.0}))
        assert sum(member.crashes for member in federation.members.values()) >= 1
        assert (job.state, job.reason) == (JobState.COMPLETED, None)
        assert result(federation, job.job_id) == calm


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 0.3]))
# A copy that falls due when its epoch's key is erased.
@example(seed=1001, share=0.3)
def test_every_job_ends_whatever_the_wire_does(seed: int, share: float) -> None:
    """Over any schedule of faults a job ends in a named state with a reason, and what it sums is right.

    Rounds that were summed over all three schools have the metrics that the good wire gives; nobody's task fails with
    anything but this room's own errors.
    """
    with tempfile.TemporaryDirectory() as folder, open_federation(Path(folder), 3) as federation:
        federation.fate = schedule(seed, share)
        job = federation.finish(federation.start(**SHORT | {"round_attempts": 2}))
        assert job.state in JOB_ENDS
        assert job.state is JobState.COMPLETED or job.reason
        errors = [error for member in federation.members.values() for _, error in member.errors]
        assert [error for error in errors if not isinstance(error, LearningError)] == []
        # Work for a round that is over ends; it is not tried again.
        assert [error for error in errors if isinstance(error, RoundOverError)] == []
        federation.fate = lambda *_call: "deliver"
        federation.settle(1200.0)
        assert {transfer["state"] for transfer in federation.transfers.values()} <= {"COMPLETED"}
