"""The collector gathers a job's members: plan, approval, transfer, consent. One step each time asked."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from learning.begin import begin
from learning.ending import fail_job
from learning.errors import PeerError, RefusedError, UnknownError
from learning.jobs import Job, JobState, Member, MemberState, OwnPlan
from learning.members import call, call_each, load
from learning.models import WeightsError, load_weights, parse_model
from learning.node import Later, Node, later
from learning.plans import PLAN_KIND, TrainingPlan, parse_plan, plan_digest, plan_payload
from learning.ports import Records
from learning.timeline import note

_ASK_SOON_SECONDS, _ASK_AGAIN_SECONDS = 0.1, 0.5
_S = MemberState
_NEWS = {
    _S.PLAN_PENDING: "has the plan before its operator, who decides",
    _S.WAITING_FOR_CONSENT: "waits until enough learners consent",
    _S.READY: "is ready",
    _S.LEFT: "does not take part",
}
# Members that recruiting has nothing left to ask.
_SETTLED = frozenset({_S.READY, _S.ACTIVE, _S.LEFT, _S.DONE})


def register_plan(node: Node, payload: Mapping[str, Any]) -> OwnPlan:
    """Check, sign and keep a training plan.

    Raises:
        PlanError: the plan is malformed.
    """
    plan = parse_plan(payload)
    own = OwnPlan(
        plan_digest=plan_digest(plan),
        document=node.signer.sign(PLAN_KIND, plan_payload(plan)),
        created_at=node.now(),
    )

    def work(records: Records) -> OwnPlan:
        records.add(own)
        return records.get(OwnPlan, own.plan_digest) or own

    return node.store.run("plan.register", work)


def start_job(node: Node, digest: str, agreement_ids: Sequence[str]) -> Job:
    """Open a job over agreements of ours; recruiting begins at once.

    Raises:
        UnknownError: no such plan, or an agreement that is not in force.
        RefusedError: fewer agreements than the plan needs contributors, two with one provider, or initial weights that
            are not here or do not fit the model.
    """
    own = node.store.run("plan.get", lambda records: records.get(OwnPlan, digest))
    if own is None:
        raise UnknownError("no such plan")
    plan = parse_plan(own.document["payload"])
    _check_first_weights(node, plan)
    now, job_id = node.now(), node.new_id()
    members = [_invited(node, job_id, agreement_id) for agreement_id in agreement_ids]
    if len({member.participant_id for member in members}) != len(members):
        raise RefusedError("same-provider-twice", "a provider takes part once; two agreements name the same one")
    if len(members) < plan.min_contributors:
        raise RefusedError(
            "too-few-agreements",
            f"the plan needs {plan.min_contributors} contributors, {len(members)} agreements given",
        )
    job = Job(job_id=job_id, plan_digest=digest, state=JobState.RECRUITING, created_at=now, updated_at=now)

    def work(records: Records) -> Job:
        records.add(job)
        for member in members:
            records.add(member)
        note(records, job_id, now, "recruiting", f"recruiting {len(members)} providers for '{plan.title}'")
        records.enqueue("learning.recruit", job_id, now)
        return job

    return node.store.run("job.start", work)


def _check_first_weights(node: Node, plan: TrainingPlan) -> None:
    if plan.initial_weights is None:
        return
    try:
        load_weights(parse_model(plan.model), node.blobs.get(plan.initial_weights))
    except (UnknownError, WeightsError) as error:
        raise RefusedError("no-such-weights", f"the plan's initial weights: {error}; post them first") from error


def recruit(node: Node, job_id: str) -> Later | None:
    """Task: take each member one step further; when all are ready or gone, place, sign and hand out the manifest."""
    job, plan, members = load(node, job_id)
    if job.state is not JobState.RECRUITING:
        return None
    members = call_each(members, lambda member: _advance(node, job, member))
    members = [_past_deadline(node, job, plan, member) for member in members]
    taking_part = [member for member in members if member.state is not _S.LEFT]
    if len(taking_part) < plan.min_contributors:
        reasons = "; ".join(f"{node.peers.name(m.participant_id)}: {m.reason}" for m in members if m.reason)
        fail_job(node, job_id, f"{len(taking_part)} of {plan.min_contributors} contributors needed remain ({reasons})")
        return None
    if any(member.state not in _SETTLED for member in taking_part):
        return later(node, _pause(node, job))
    return begin(node, job, plan, sorted(taking_part, key=lambda member: member.participant_id))


def _pause(node: Node, job: Job) -> float:
    """Return when to ask members again: soon at first, since most are ready at once, then less and less often."""
    age = (node.now() - job.created_at).total_seconds()
    return min(max(age / 8, _ASK_SOON_SECONDS), _ASK_AGAIN_SECONDS)


def _invited(node: Node, job_id: str, agreement_id: str) -> Member:
    agreement = node.contracts.agreement(agreement_id)
    if agreement is None or agreement.consumer != node.participant_id:
        raise UnknownError(f"no agreement {agreement_id} in force")
    return Member(
        job_id=job_id, participant_id=agreement.provider, agreement_id=agreement_id, state=MemberState.INVITED
    )


def _advance(node: Node, job: Job, member: Member) -> Member:
    """Take one member as far as it will go now, keeping each step; a peer that does not answer is asked again later."""
    try:
        while member.state not in _SETTLED:
            moved = _keep(node, member, _step(node, job, member))
            if moved.state is member.state:
                return moved
            member = moved
    except PeerError as error:
        state = _S.LEFT if error.final else member.state
        return _keep(node, member, dataclasses.replace(member, state=state, reason=str(error)))
    return member


def _keep(node: Node, before: Member, after: Member) -> Member:
    """Write what a step changed over the member as it is stored now."""
    fields = {field.name: getattr(after, field.name) for field in dataclasses.fields(Member)}
    changed = {name: value for name, value in fields.items() if value != getattr(before, name)}
    now = node.now()

    def work(records: Records) -> Member:
        job = records.lock(Job, before.job_id)
        row = records.lock(Member, before.job_id, before.participant_id)
        if job is None or row is None:
            raise UnknownError("no such job")
        if job.state is not JobState.RECRUITING:
            # The job ended while we were asking: what was opened meanwhile has to be closed again.
            moved = dataclasses.replace(row, **(changed | {"state": _S.LEFT}))
            records.enqueue("learning.dismiss", before.job_id, now)
        else:
            moved = dataclasses.replace(row, **changed)
        if moved != row:
            records.save(moved)
        if moved.state is not row.state and moved.state in _NEWS:
            text = f"{node.peers.name(moved.participant_id)} {_NEWS[moved.state]}"
            because = f": {moved.reason}" if moved.state is _S.LEFT and moved.reason else ""
            note(records, moved.job_id, now, "member", text + because)
        return moved

    return node.store.run("member.step", work)


def _step(node: Node, job: Job, member: Member) -> Member:
    match member.state:
        case _S.INVITED:
            own = node.store.run("plan.get", lambda records: records.get(OwnPlan, job.plan_digest))
            body = {"plan": own.document if own else None, "agreement_id": member.agreement_id}
            return _plan_answer(member, call(node, member, "POST", "/plans", json=body))
        case _S.PLAN_PENDING:
            path = f"/plans/{job.plan_digest}/agreements/{member.agreement_id}"
            return _plan_answer(member, call(node, member, "GET", path))
        case _S.PLAN_APPROVED:
            pid = node.contracts.request_transfer(member.agreement_id)
            return dataclasses.replace(member, state=_S.TRANSFER_REQUESTED, transfer_pid=pid, reason=None)
        case _S.TRANSFER_REQUESTED:
            return _transfer(node, job, member)
        case _S.WAITING_FOR_CONSENT:
            return _joined(member, call(node, member, "GET", f"/jobs/{job.job_id}"))
        case _:
            return member


def _plan_answer(member: Member, body: Mapping[str, Any]) -> Member:
    states = {"PENDING": _S.PLAN_PENDING, "APPROVED": _S.PLAN_APPROVED, "REFUSED": _S.LEFT}
    state = states.get(str(body.get("state")))
    if state is None:
        raise PeerError("the answer about the plan has no known state")
    reason = None if state is _S.PLAN_APPROVED else str(body.get("reason") or body.get("state"))
    if state is _S.LEFT:
        reason = f"refused the plan: {reason}"
    return dataclasses.replace(member, state=state, reason=reason)


def _transfer(node: Node, job: Job, member: Member) -> Member:
    view = node.contracts.transfer(member.transfer_pid or "")
    if view is None or view.state in ("TERMINATED", "COMPLETED"):
        reason = (view.reason if view else None) or "no reason given"
        return dataclasses.replace(member, state=_S.LEFT, reason=f"the transfer was ended: {reason}")
    if view.state != "STARTED" or view.token is None:
        return dataclasses.replace(member, reason=f"transfer process is {view.state}")
    member = dataclasses.replace(member, endpoint=view.endpoint, token=view.token)
    body = {"job_id": job.job_id, "plan_digest": job.plan_digest}
    return _joined(member, call(node, member, "POST", "/jobs", json=body))


def _joined(member: Member, body: Mapping[str, Any]) -> Member:
    state = str(body.get("state"))
    if state == "READY" and isinstance(body.get("approval"), Mapping):
        return dataclasses.replace(member, state=_S.READY, approval=dict(body["approval"]), reason=None)
    if state in ("STOPPED", "ENDED"):
        return dataclasses.replace(member, state=_S.LEFT, reason=str(body.get("reason")))
    return dataclasses.replace(member, state=_S.WAITING_FOR_CONSENT, reason="waiting until enough learners consent")


def _past_deadline(node: Node, job: Job, plan: TrainingPlan, member: Member) -> Member:
    """Leave a member out that is not ready when the plan's time for recruiting is over."""
    if member.state in _SETTLED or node.now() < job.created_at + timedelta(seconds=plan.recruit_seconds):
        return member
    reason = f"not ready after {plan.recruit_seconds:g} s: {member.reason or member.state}"
    return _keep(node, member, dataclasses.replace(member, state=_S.LEFT, reason=reason))
