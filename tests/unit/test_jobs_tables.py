"""The life of jobs, parts and rounds: every state with every event, and the pictures of them."""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import learning
from learning import diagrams
from learning.jobs import (
    JOB_ENDS,
    JOB_TABLE,
    PARTICIPATION_TABLE,
    IllegalMoveError,
    Job,
    JobEvent,
    JobState,
    Participation,
    ParticipationEvent,
    ParticipationState,
    move_job,
    move_participation,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)
J, E, P, Q = JobState, JobEvent, ParticipationState, ParticipationEvent

LEGAL_JOB = {
    (J.RECRUITING, E.MANIFEST_ACCEPTED): J.RUNNING,
    (J.RUNNING, E.ROUNDS_DONE): J.REPORTING,
    (J.REPORTING, E.REPORT_SIGNED): J.COMPLETED,
    **{(state, E.CANNOT_GO_ON): J.FAILED for state in (J.RECRUITING, J.RUNNING, J.REPORTING)},
    **{(state, E.CANCEL): J.CANCELLED for state in (J.RECRUITING, J.RUNNING)},
}
LEGAL_PART = {
    (P.WAITING_FOR_CONSENT, Q.FLOOR_MET): P.READY,
    (P.READY, Q.MANIFEST_ACCEPTED): P.ACTIVE,
    **{(state, Q.JOB_ENDED): P.ENDED for state in (P.WAITING_FOR_CONSENT, P.READY, P.ACTIVE)},
    **{(state, Q.STOP): P.STOPPED for state in (P.WAITING_FOR_CONSENT, P.READY, P.ACTIVE)},
}


def job(state: JobState) -> Job:
    return Job(job_id="urn:uuid:1", plan_digest="ab" * 32, state=state, created_at=NOW, updated_at=NOW)


def part(state: ParticipationState) -> Participation:
    return Participation(
        job_id="urn:uuid:1",
        plan_digest="ab" * 32,
        agreement_id="urn:agreement",
        dataset_id="urn:dataset",
        transfer_pid="urn:transfer",
        consumer="did:web:ai",
        consumer_organisation="AI",
        consumer_key="key",
        state=state,
        created_at=NOW,
        updated_at=NOW,
        sealing_key="secret-sealing-key",
        beacon_reveal="secret-reveal",
    )


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_a_job_moves_only_as_its_table_says(state: JobState, event: JobEvent) -> None:
    """A legal event leads to its state and time; every other one is a bug of ours and changes nothing."""
    expected = LEGAL_JOB.get((state, event))
    assert JOB_TABLE.get((state, event)) is expected
    if expected is None:
        with pytest.raises(IllegalMoveError):
            move_job(job(state), event, LATER)
        return
    moved = move_job(job(state), event, LATER, "why")
    assert moved == dataclasses.replace(job(state), state=expected, updated_at=LATER, reason="why")


@pytest.mark.parametrize(("state", "event"), list(itertools.product(ParticipationState, ParticipationEvent)))
def test_a_part_moves_only_as_its_table_says(state: ParticipationState, event: ParticipationEvent) -> None:
    """A legal event leads to its state and time; every other one is a bug of ours and changes nothing."""
    expected = LEGAL_PART.get((state, event))
    assert PARTICIPATION_TABLE.get((state, event)) is expected
    if expected is None:
        with pytest.raises(IllegalMoveError):
            move_participation(part(state), event, LATER)
        return
    moved = move_participation(part(state), event, LATER)
    assert moved == dataclasses.replace(part(state), state=expected, updated_at=LATER)


def test_nothing_leaves_an_end_and_every_other_state_can_fail() -> None:
    """Every job ends: ends are final, and from everywhere else an end can be reached in one move."""
    assert {state for state, _ in JOB_TABLE} == set(JobState) - JOB_ENDS
    for state in set(JobState) - JOB_ENDS:
        assert JOB_TABLE[state, E.CANNOT_GO_ON] in JOB_ENDS


def test_a_move_keeps_the_reason_of_before() -> None:
    """A move without a reason does not erase one that was given."""
    known = dataclasses.replace(job(J.RECRUITING), reason="waiting")
    assert move_job(known, E.MANIFEST_ACCEPTED, LATER).reason == "waiting"


def test_a_part_shows_none_of_its_secrets() -> None:
    """The representation of a part holds neither its sealing key nor its beacon nonce."""
    assert "secret" not in repr(part(P.READY))


@pytest.mark.parametrize("picture", [diagrams.job_diagram, diagrams.participation_diagram, diagrams.round_diagram])
def test_the_readme_shows_what_the_tables_print(picture) -> None:  # type: ignore[no-untyped-def]
    """The room's pictures are its tables'."""
    assert learning.__file__ is not None
    assert picture() in Path(learning.__file__).with_name("README.md").read_text(encoding="utf-8")
