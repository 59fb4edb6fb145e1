"""The collector draws the beacon: commitments fixed and shown, then opened; afresh without a member that did not open its own."""

import dataclasses
from collections.abc import Mapping, Sequence

from learning.errors import PeerError
from learning.jobs import Job, Member, MemberState
from learning.members import call, change_member
from learning.node import Node
from learning.pledge import commitments_digest
from learning.ports import Records
from learning.timeline import note


def draw(node: Node, job: Job, members: Sequence[Member], *, patient: bool) -> list[Member] | None:
    """Return the members with their reveals, or None when somebody has to be asked again.

    A member that does not reveal is left out, and all others commit afresh: it may have seen what they revealed, and
    could otherwise choose between two outcomes.

    Args:
        node: the collector.
        job: the job, in its beacon epoch.
        members: all that take part.
        patient: whether one that does not answer is asked again.
    """
    behind = [member for member in members if member.beacon_epoch != job.beacon_epoch]
    for member in behind:
        try:
            _commit_afresh(node, job, member)
        except PeerError as error:
            if error.final or not patient:
                _leave_out(node, job, member, f"did not commit afresh: {error}")
    if behind:
        return None
    fixed = commitments_digest(job.job_id, job.beacon_epoch, _commitments(members))
    revealed = []
    for member in members:
        try:
            revealed.append(_reveal(node, job, member, fixed))
        except PeerError as error:
            if error.final or not patient:
                _leave_out(node, job, member, f"did not reveal: {error}", epoch=job.beacon_epoch + 1)
            return None
    return revealed


def _commitments(members: Sequence[Member]) -> dict[str, str]:
    return {member.participant_id: str((member.approval or {})["payload"]["beacon_commitment"]) for member in members}


def _leave_out(node: Node, job: Job, member: Member, reason: str, epoch: int | None = None) -> None:
    """Go on without a member; ``epoch`` has all others commit afresh."""
    now = node.now()

    def work(records: Records) -> None:
        current = records.lock(Job, job.job_id)
        row = records.lock(Member, member.job_id, member.participant_id)
        if current is None or row is None or current.manifest is not None:
            return
        records.save(dataclasses.replace(row, state=MemberState.LEFT, reason=reason))
        again = "" if epoch is None else "; the others commit afresh"
        note(records, job.job_id, now, "member", f"{node.peers.name(member.participant_id)} {reason}{again}")
        if epoch is not None:
            records.save(dataclasses.replace(current, beacon_epoch=epoch))

    node.store.run("member.leave", work)


def _commit_afresh(node: Node, job: Job, member: Member) -> None:
    body = call(node, member, "POST", f"/jobs/{job.job_id}/commit", json={"epoch": job.beacon_epoch})
    approval = body.get("approval")
    if not isinstance(approval, Mapping):
        raise PeerError("the answer holds no approval", final=True)
    fields = {"approval": dict(approval), "reveal": None, "beacon_epoch": job.beacon_epoch}
    change_member(node, member, lambda row: dataclasses.replace(row, **fields))  # type: ignore[arg-type] # three fields


def _reveal(node: Node, job: Job, member: Member, fixed: str) -> Member:
    if member.reveal is not None:
        return member
    body = {"epoch": job.beacon_epoch, "commitments": fixed}
    nonce = str(call(node, member, "POST", f"/jobs/{job.job_id}/reveal", json=body).get("nonce"))
    return change_member(node, member, lambda row: dataclasses.replace(row, reveal=nonce))
