"""The end of a job at its collector: a named terminal state, its members told, its transfer processes closed."""

import dataclasses
from datetime import datetime, timedelta

from learning.errors import ConflictError, PeerError, UnknownError
from learning.jobs import JOB_ENDS, JOB_TABLE, Job, JobEvent, Member, MemberState, move_job
from learning.members import call, call_each, change_member, load
from learning.node import Later, Node, later
from learning.ports import Records
from learning.scrub import scrub_sums
from learning.timeline import note

_AGAIN_SECONDS = 1.0
# How long a member that does not answer is told again that the job is over; then only its transfer is closed.
_FAREWELL = timedelta(minutes=2)


def fail_job(node: Node, job_id: str, reason: str, event: JobEvent = JobEvent.CANNOT_GO_ON) -> None:
    """End a job in a named terminal state, and have its members told; one that has ended stays as it is.

    Raises:
        ConflictError: the job cannot end this way any more: its report is being written.
    """
    now = node.now()
    node.store.run("job.fail", lambda records: end_job(records, job_id, reason, now, event))


def end_job(records: Records, job_id: str, reason: str, now: datetime, event: JobEvent = JobEvent.CANNOT_GO_ON) -> None:
    """End a job within the transaction that found out why; see :func:`fail_job`."""
    job = records.lock(Job, job_id)
    if job is None or job.state in JOB_ENDS:
        return
    if (job.state, event) not in JOB_TABLE:
        raise ConflictError(f"the job is {job.state}; it cannot be {event}")
    records.save(move_job(job, event, now, reason))
    note(records, job_id, now, "ended", reason)
    records.enqueue("learning.dismiss", job_id, now)


def dismiss(node: Node, job_id: str) -> Later | None:
    """Task: tell every member that the job has ended, close its transfer process, and erase what rounds left here."""
    job, _, members = load(node, job_id)
    if job.state not in JOB_ENDS:
        return None
    told = call_each(members, lambda member: _farewell(node, job, member))
    patient = node.now() < job.updated_at + _FAREWELL
    pending = False
    for member, heard in zip(members, told, strict=True):
        if not heard and patient:
            pending = True
            continue
        # A provider that is gone still gets the completion, as soon as it is back: the contracts room keeps trying.
        if member.transfer_pid is not None:
            node.contracts.complete_transfer(member.transfer_pid)
        change_member(node, member, _dismissed)
    scrub_sums(node, job_id)
    return later(node, _AGAIN_SECONDS) if pending else None


def _farewell(node: Node, job: Job, member: Member) -> bool:
    if member.endpoint is None or member.token is None:
        return True
    try:
        call(node, member, "POST", f"/jobs/{job.job_id}/end", json={"reason": job.reason or job.state})
    except PeerError as error:
        # A provider that never joined, or has left, knows of no such job.
        return error.final or error.code == UnknownError.code
    return True


def _dismissed(member: Member) -> Member:
    state = member.state if member.state is MemberState.LEFT else MemberState.DONE
    return dataclasses.replace(member, state=state, token=None)
