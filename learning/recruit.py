"""The collector gathers a job's members: plan, approval, transfer, consent, beacon, manifest. One step each time asked."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from learning.errors import PeerError, RefusedError, UnknownError
from learning.jobs import JOB_ENDS, Job, JobEvent, JobState, Member, MemberState, OwnPlan, move_job
from learning.models import initial_weights, parse_model, save_weights
from learning.node import Later, Node, later
from learning.placing import identify
from learning.plans import PLAN_KIND, TrainingPlan, parse_plan, plan_digest, plan_payload
from learning.ports import Records
from learning.secagg.errors import SecureAggregationError
from learning.secagg.manifest import Terms, build_manifest
from learning.timeline import note
from learning.vectors import layout

_ASK_AGAIN_SECONDS = 0.5
_S = MemberState


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
        RefusedError: fewer agreements than the plan needs contributors, or two with one provider.
    """
    own = node.store.run("plan.get", lambda records: records.get(OwnPlan, digest))
    if own is None:
        raise UnknownError("no such plan")
    plan = parse_plan(own.document["payload"])
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


def recruit(node: Node, job_id: str) -> Later | None:
    """Task: take each member one step further; when all are ready or gone, place, sign and hand out the manifest."""
    job, plan, members = load(node, job_id)
    if job.state is not JobState.RECRUITING:
        return None
    waiting = [member for member in members if member.state not in (_S.READY, _S.ACTIVE, _S.LEFT)]
    if waiting:
        with ThreadPoolExecutor(max_workers=8) as pool:
            moved = list(pool.map(lambda member: _advance(node, job, member), waiting))
        for member in moved:
            _save(node, member)
        members = [*(member for member in members if member not in waiting), *moved]
    left_out = _past_deadline(node, job, plan, members)
    members = [left_out.get(member.participant_id, member) for member in members]
    taking_part = [member for member in members if member.state is not _S.LEFT]
    if len(taking_part) < plan.min_contributors:
        reasons = "; ".join(f"{node.peers.name(m.participant_id)}: {m.reason}" for m in members if m.reason)
        fail_job(node, job_id, f"{len(taking_part)} of {plan.min_contributors} contributors needed remain ({reasons})")
        return None
    if any(member.state is not _S.READY and member.state is not _S.ACTIVE for member in taking_part):
        return later(node, _ASK_AGAIN_SECONDS)
    return _place(node, job, plan, sorted(taking_part, key=lambda member: member.participant_id))


def fail_job(node: Node, job_id: str, reason: str, event: JobEvent = JobEvent.CANNOT_GO_ON) -> None:
    """End a job in a named terminal state, and tell its members."""
    now = node.now()

    def work(records: Records) -> None:
        job = records.lock(Job, job_id)
        if job is None or job.state in JOB_ENDS:
            return
        records.save(move_job(job, event, now, reason))
        note(records, job_id, now, "ended", reason)
        records.enqueue("learning.dismiss", job_id, now)

    node.store.run("job.fail", work)


def dismiss(node: Node, job_id: str) -> Later | None:
    """Task: tell every member that the job has ended, and close its transfer process."""
    job, _, members = load(node, job_id)
    pending = False
    for member in members:
        if member.state in (_S.DONE, _S.LEFT) and member.transfer_pid is None:
            continue
        try:
            if member.endpoint is not None and member.state is not _S.DONE:
                call(node, member, "POST", f"/jobs/{job_id}/end", json={"reason": job.reason or job.state})
            if member.transfer_pid is not None:
                node.contracts.complete_transfer(member.transfer_pid)
        except PeerError as error:
            if not error.final and node.now() < job.updated_at + timedelta(minutes=2):
                pending = True
                continue
        if member.state is not _S.LEFT:
            _save(node, dataclasses.replace(member, state=_S.DONE, token=None))
    return later(node, 2 * _ASK_AGAIN_SECONDS) if pending else None


def load(node: Node, job_id: str) -> tuple[Job, TrainingPlan, list[Member]]:
    """Return a job of ours, its plan and its members.

    Raises:
        UnknownError: no such job.
    """

    def work(records: Records) -> tuple[Job, OwnPlan, list[Member]]:
        job = records.get(Job, job_id)
        own = records.get(OwnPlan, job.plan_digest) if job else None
        if job is None or own is None:
            raise UnknownError("no such job")
        return job, own, records.select(Member, job_id)

    job, own, members = node.store.run("job.load", work)
    return job, parse_plan(own.document["payload"]), members


def call(
    node: Node,
    member: Member,
    method: str,
    path: str,
    *,
    json: Mapping[str, Any] | None = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    """Call a member's learning API with its token and return the body of a good answer.

    Raises:
        PeerError: no answer, or one that says no; ``final`` when asking again cannot help.
    """
    reply = node.peers.call(
        member.participant_id, method, path, token=member.token, json=json, content=content, headers=headers
    )
    if reply.status == 401 and member.transfer_pid is not None:  # noqa: PLR2004 - the short-lived token has expired
        view = node.peers.call(member.participant_id, "POST", "/tokens", token=member.token, json={})
        token = view.body.get("token")
        if view.status < 300 and isinstance(token, str):  # noqa: PLR2004
            _save(node, dataclasses.replace(member, token=token))
            reply = node.peers.call(
                member.participant_id, method, path, token=token, json=json, content=content, headers=headers
            )
    if reply.status < 300:  # noqa: PLR2004
        return reply.body
    name = node.peers.name(member.participant_id)
    code = str(reply.body.get("code", f"http-{reply.status}"))
    detail = str(reply.body.get("detail", "no reason given"))
    # 404, 425 and 5xx may pass; any other refusal is an answer.
    passing = reply.status in (404, 425, 429) or reply.status >= 500  # noqa: PLR2004
    raise PeerError(f"{name}: {detail}", code=code, final=not passing)


def _invited(node: Node, job_id: str, agreement_id: str) -> Member:
    agreement = node.contracts.agreement(agreement_id)
    if agreement is None or agreement.consumer != node.participant_id:
        raise UnknownError(f"no agreement {agreement_id} in force")
    return Member(
        job_id=job_id, participant_id=agreement.provider, agreement_id=agreement_id, state=MemberState.INVITED
    )


def _advance(node: Node, job: Job, member: Member) -> Member:
    """Take one member as far as it will go now; a peer that does not answer is asked again later."""
    try:
        for _ in range(len(_S)):
            moved = _step(node, job, member)
            if moved.state == member.state:
                return moved
            member = moved
            if member.state in (_S.READY, _S.LEFT):
                break
    except PeerError as error:
        if error.final:
            return dataclasses.replace(member, state=_S.LEFT, reason=str(error))
        return dataclasses.replace(member, reason=str(error))
    return member


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


def _past_deadline(node: Node, job: Job, plan: TrainingPlan, members: Sequence[Member]) -> dict[str, Member]:
    """Leave out who is not ready when the plan's time for recruiting is over."""
    if node.now() < job.created_at + timedelta(seconds=plan.recruit_seconds):
        return {}
    late: dict[str, Member] = {}
    for member in members:
        if member.state not in (_S.READY, _S.ACTIVE, _S.LEFT):
            reason = f"not ready after {plan.recruit_seconds:g} s: {member.reason or member.state}"
            late[member.participant_id] = dataclasses.replace(member, state=_S.LEFT, reason=reason)
            _save(node, late[member.participant_id])
    return late


def _place(node: Node, job: Job, plan: TrainingPlan, members: Sequence[Member]) -> Later | None:
    """Collect the reveals, compute the placement, sign the manifest and have every member check it."""
    revealed = []
    for member in members:
        try:
            nonce = member.reveal or str(call(node, member, "POST", f"/jobs/{job.job_id}/reveal").get("nonce"))
        except PeerError as error:
            if not error.final:
                return later(node, _ASK_AGAIN_SECONDS)
            _save(node, dataclasses.replace(member, state=_S.LEFT, reason=f"did not reveal: {error}"))
            return later(node, 0)
        revealed.append(dataclasses.replace(member, reveal=nonce))
        _save(node, revealed[-1])
    if job.manifest is None:
        try:
            document = _manifest(node, job, plan, revealed)
        except SecureAggregationError as error:
            fail_job(node, job.job_id, f"the members cannot be placed: {error}")
            return None
        job = _keep_manifest(node, job, document)
    for member in revealed:
        if member.state is _S.ACTIVE:
            continue
        try:
            call(node, member, "POST", f"/jobs/{job.job_id}/manifest", json=job.manifest)
        except PeerError as error:
            if not error.final:
                return later(node, _ASK_AGAIN_SECONDS)
            fail_job(node, job.job_id, f"the manifest was refused: {error}")
            return None
        _save(node, dataclasses.replace(member, state=_S.ACTIVE))
    _begin(node, job, plan)
    return None


def _manifest(node: Node, job: Job, plan: TrainingPlan, members: Sequence[Member]) -> dict[str, Any]:
    wanted = plan.aggregation
    check = identify(node)
    organisations = {check((member.approval or {})["payload"]).organisation for member in members}
    terms = Terms(
        job=job.job_id,
        plan=job.plan_digest,
        collector=node.participant_id,
        collector_organisation=node.organisation,
        layout=layout(plan, len(members)),
        n_min=plan.min_contributors,
        n_max=len(members),
        expires=node.now() + timedelta(seconds=plan.job_seconds),
        round_seconds=math.ceil(plan.round_seconds),
        aggregation=wanted.mode,
        # Two providers alone can only make the (2, 1) group; placement says what that costs.
        shape=(wanted.seats, wanted.threshold) if len(organisations) >= wanted.seats else None,
    )
    document, _ = build_manifest(
        terms,
        [member.approval or {} for member in members],
        {member.participant_id: member.reveal or "" for member in members},
        identify=check,
        signer=node.signer,
    )
    return document


def _keep_manifest(node: Node, job: Job, document: dict[str, Any]) -> Job:
    def work(records: Records) -> Job:
        current = records.lock(Job, job.job_id)
        if current is None:
            raise UnknownError("no such job")
        if current.manifest is not None:
            return current
        kept = dataclasses.replace(current, manifest=document)
        records.save(kept)
        seats = len(document["payload"]["seats"])
        note(
            records,
            job.job_id,
            node.now(),
            "placed",
            f"manifest signed: {len(document['payload']['members'])} members, {seats} seats",
        )
        return kept

    return node.store.run("job.manifest", work)


def _begin(node: Node, job: Job, plan: TrainingPlan) -> None:
    weights = plan.initial_weights
    if weights is None:
        spec = parse_model(plan.model)
        weights = node.blobs.put(save_weights(spec, initial_weights(spec, seed=plan.seed)))
    now = node.now()

    def work(records: Records) -> None:
        current = records.lock(Job, job.job_id)
        if current is None or current.state is not JobState.RECRUITING:
            return
        moved = move_job(current, JobEvent.MANIFEST_ACCEPTED, now)
        records.save(dataclasses.replace(moved, weights=weights, round=1, attempt=1))
        note(records, job.job_id, now, "running", "every member accepted the manifest; training begins")
        records.enqueue("learning.open_round", job.job_id, now)

    node.store.run("job.begin", work)


def _save(node: Node, member: Member) -> None:
    node.store.run("member.save", lambda records: records.save(member))
