"""The life of a training job, seen from the collector and from a provider. Two tables are the only law."""

import dataclasses
import enum
from datetime import datetime
from typing import Any


class JobState(enum.StrEnum):
    """A job at its collector."""

    RECRUITING = "RECRUITING"
    RUNNING = "RUNNING"
    REPORTING = "REPORTING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class JobEvent(enum.StrEnum):
    """What moves a job."""

    MANIFEST_ACCEPTED = "manifest accepted by every member"
    ROUNDS_DONE = "last round done"
    REPORT_SIGNED = "report signed"
    CANNOT_GO_ON = "cannot go on"
    CANCEL = "cancelled by its owner"


_J, _E = JobState, JobEvent

JOB_TABLE: dict[tuple[JobState, JobEvent], JobState] = {
    (_J.RECRUITING, _E.MANIFEST_ACCEPTED): _J.RUNNING,
    (_J.RECRUITING, _E.CANNOT_GO_ON): _J.FAILED,
    (_J.RECRUITING, _E.CANCEL): _J.CANCELLED,
    (_J.RUNNING, _E.ROUNDS_DONE): _J.REPORTING,
    (_J.RUNNING, _E.CANNOT_GO_ON): _J.FAILED,
    (_J.RUNNING, _E.CANCEL): _J.CANCELLED,
    (_J.REPORTING, _E.REPORT_SIGNED): _J.COMPLETED,
    (_J.REPORTING, _E.CANNOT_GO_ON): _J.FAILED,
}

JOB_ENDS = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


class MemberState(enum.StrEnum):
    """One provider of a job, as its collector knows it."""

    INVITED = "INVITED"
    PLAN_PENDING = "PLAN_PENDING"
    PLAN_APPROVED = "PLAN_APPROVED"
    TRANSFER_REQUESTED = "TRANSFER_REQUESTED"
    WAITING_FOR_CONSENT = "WAITING_FOR_CONSENT"
    READY = "READY"
    ACTIVE = "ACTIVE"
    DONE = "DONE"
    LEFT = "LEFT"


class ParticipationState(enum.StrEnum):
    """A provider's own part in a job."""

    WAITING_FOR_CONSENT = "WAITING_FOR_CONSENT"
    READY = "READY"
    ACTIVE = "ACTIVE"
    ENDED = "ENDED"
    STOPPED = "STOPPED"


class ParticipationEvent(enum.StrEnum):
    """What moves a provider's part."""

    FLOOR_MET = "cohort floor met"
    MANIFEST_ACCEPTED = "manifest checked and accepted"
    JOB_ENDED = "job ended"
    STOP = "stopped by the provider, its policy or the transfer"


_P, _Q = ParticipationState, ParticipationEvent

PARTICIPATION_TABLE: dict[tuple[ParticipationState, ParticipationEvent], ParticipationState] = {
    (_P.WAITING_FOR_CONSENT, _Q.FLOOR_MET): _P.READY,
    (_P.WAITING_FOR_CONSENT, _Q.JOB_ENDED): _P.ENDED,
    (_P.WAITING_FOR_CONSENT, _Q.STOP): _P.STOPPED,
    (_P.READY, _Q.MANIFEST_ACCEPTED): _P.ACTIVE,
    (_P.READY, _Q.JOB_ENDED): _P.ENDED,
    (_P.READY, _Q.STOP): _P.STOPPED,
    (_P.ACTIVE, _Q.JOB_ENDED): _P.ENDED,
    (_P.ACTIVE, _Q.STOP): _P.STOPPED,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A training job at its collector."""

    job_id: str
    plan_digest: str
    state: JobState
    created_at: datetime
    updated_at: datetime
    reason: str | None = None
    round: int = 0
    attempt: int = 0
    weights: str | None = None
    optimiser_state: str | None = None
    manifest: dict[str, Any] | None = None
    report: str | None = None
    beacon_epoch: int = 0
    replaced: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A provider of a job at its collector. ``token`` opens the provider's learning API for this job."""

    job_id: str
    participant_id: str
    agreement_id: str
    state: MemberState
    reason: str | None = None
    transfer_pid: str | None = None
    endpoint: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    approval: dict[str, Any] | None = None
    reveal: str | None = None
    manifest_digest: str | None = None
    beacon_epoch: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Participation:
    """A provider's own part in somebody's job. The secrets never leave this participant.

    ``sealing_key`` is the chain of its sealing keys, stepped on as rounds end; ``beacon_fixed`` the digest of all
    commitments that ours was opened for.
    """

    job_id: str
    plan_digest: str
    agreement_id: str
    dataset_id: str
    transfer_pid: str
    consumer: str
    consumer_organisation: str
    consumer_key: str
    state: ParticipationState
    created_at: datetime
    updated_at: datetime
    reason: str | None = None
    approval: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    beacon_reveal: str = dataclasses.field(default="", repr=False)
    sealing_key: str = dataclasses.field(default="", repr=False)
    beacon_epoch: int = 0
    beacon_fixed: str | None = None


class PlanState(enum.StrEnum):
    """A received plan at a provider."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REFUSED = "REFUSED"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReceivedPlan:
    """A plan that a consumer of one of our agreements registered with us."""

    plan_digest: str
    agreement_id: str
    consumer: str
    document: dict[str, Any]
    state: PlanState
    received_at: datetime
    reason: str | None = None


class IllegalMoveError(Exception):
    """Our own code asked for a move that the table does not know: a bug."""


def move_job(job: Job, event: JobEvent, now: datetime, reason: str | None = None) -> Job:
    """Return the job after ``event``.

    Raises:
        IllegalMoveError: the table has no such move.
    """
    state = JOB_TABLE.get((job.state, event))
    if state is None:
        raise IllegalMoveError(f"a job in {job.state} does not move on '{event}'")
    return dataclasses.replace(job, state=state, updated_at=now, reason=reason or job.reason)


def move_participation(
    value: Participation, event: ParticipationEvent, now: datetime, reason: str | None = None
) -> Participation:
    """Return a provider's part after ``event``.

    Raises:
        IllegalMoveError: the table has no such move.
    """
    state = PARTICIPATION_TABLE.get((value.state, event))
    if state is None:
        raise IllegalMoveError(f"a participation in {value.state} does not move on '{event}'")
    return dataclasses.replace(value, state=state, updated_at=now, reason=reason or value.reason)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnPlan:
    """A plan that this participant wrote and signed."""

    plan_digest: str
    document: dict[str, Any]
    created_at: datetime


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobLine:
    """One line of a job's timeline: what happened, in words that hold no data."""

    job_id: str
    number: int
    at: datetime
    code: str
    text: str
