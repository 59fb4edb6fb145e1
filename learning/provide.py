"""A data provider's part in a job: receive a plan, approve it, join when enough learners consent, check the manifest."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from learning.errors import ConflictError, PlanError, RefusedError, UnknownError
from learning.jobs import (
    Participation,
    ParticipationEvent,
    ParticipationState,
    PlanState,
    ReceivedPlan,
    move_participation,
)
from learning.node import Later, MemberFacts, Node, later
from learning.placing import manifest_of
from learning.plans import PLAN_KIND, TrainingPlan, parse_plan, plan_digest
from learning.pledge import check_commitments, fresh_nonce, sign_approval
from learning.ports import AgreementTerms, Records
from learning.scrub import scrub
from learning.secagg.errors import SecureAggregationError
from learning.secagg.keys import new_sealing_chain
from learning.secagg.manifest import Manifest
from learning.timeline import note
from learning.vectors import layout, leaf_floor, most_contributors
from policies.signing import SignatureError, document_digest, verify

_CONSENT_SECONDS = 5.0
# The collector's clock began before ours, and it has a while to place the members.
_SLACK = timedelta(minutes=5)
# The purposes that the AI Act, Article 5(1)(f), forbids in education whatever an agreement says.
_FORBIDDEN_CLASSES = frozenset({"emotion-inference"})


def receive_plan(node: Node, consumer: str, public_key: str, body: Mapping[str, Any]) -> ReceivedPlan:
    """Take a signed plan from the consumer of one of our agreements, and approve or refuse it where a rule can.

    Raises:
        UnknownError: the caller is not the consumer of that agreement.
        RefusedError: the plan is not signed by the caller or is malformed.
        ConflictError: another plan with this digest and agreement was refused before with other bytes.
    """
    agreement = _agreement(node, str(body.get("agreement_id")), consumer)
    document = body.get("plan")
    if not isinstance(document, Mapping):
        raise RefusedError("bad-plan", "the request carries no plan document")
    try:
        plan = parse_plan(verify(PLAN_KIND, document, public_key))
    except (SignatureError, PlanError) as error:
        raise RefusedError("bad-plan", str(error)) from error
    state, reason = _judge(node, agreement, plan)
    received = ReceivedPlan(
        plan_digest=plan_digest(plan),
        agreement_id=agreement.agreement_id,
        consumer=consumer,
        document=dict(document),
        state=state,
        received_at=node.now(),
        reason=reason,
    )

    def work(records: Records) -> ReceivedPlan:
        if records.add(received):
            return received
        known = records.lock(ReceivedPlan, received.plan_digest, received.agreement_id)
        if known is None or known.document["payload"] != received.document["payload"]:
            raise ConflictError("this plan digest was registered with other content")
        # Named again: it is the plan that the next transfer process of this agreement is for.
        known = dataclasses.replace(known, received_at=received.received_at)
        records.save(known)
        return known

    return node.store.run("plan.receive", work)


def plan_state(node: Node, consumer: str, digest: str, agreement_id: str) -> ReceivedPlan:
    """Return what we decided about a plan.

    Raises:
        UnknownError: no such plan from this consumer.
    """
    found = node.store.run("plan.get", lambda records: records.get(ReceivedPlan, digest, agreement_id))
    if found is None or found.consumer != consumer:
        raise UnknownError("no such plan")
    return found


def decide_plan(node: Node, digest: str, agreement_id: str, *, approve: bool, reason: str | None) -> ReceivedPlan:
    """Record the operator's decision about a pending plan.

    Raises:
        UnknownError: no such plan.
        ConflictError: it was decided before, the other way.
    """

    def work(records: Records) -> ReceivedPlan:
        found = records.lock(ReceivedPlan, digest, agreement_id)
        if found is None:
            raise UnknownError("no such plan")
        state = PlanState.APPROVED if approve else PlanState.REFUSED
        if found.state is state:
            return found
        if found.state is not PlanState.PENDING:
            raise ConflictError(f"this plan is already {found.state}")
        decided = dataclasses.replace(found, state=state, reason=reason)
        records.save(decided)
        return decided

    return node.store.run("plan.decide", work)


def join(
    node: Node, caller: MemberFacts, transfer_pid: str, agreement_id: str, body: Mapping[str, Any]
) -> Participation:
    """Open our part in a job under a started transfer; it waits until enough learners consent.

    Raises:
        RefusedError: the plan is not approved here.
        ConflictError: the job id is in use by somebody else.
    """
    job_id, digest, consumer = str(body.get("job_id")), str(body.get("plan_digest")), caller.participant_id
    agreement = _agreement(node, agreement_id, consumer)
    received = plan_state(node, consumer, digest, agreement_id)
    if received.state is not PlanState.APPROVED:
        raise RefusedError("plan-not-approved", f"this plan is {received.state} here")
    plan = parse_plan(received.document["payload"])
    now = node.now()
    part = Participation(
        job_id=job_id,
        plan_digest=digest,
        agreement_id=agreement_id,
        dataset_id=agreement.dataset_id,
        transfer_pid=transfer_pid,
        consumer=consumer,
        consumer_organisation=caller.organisation,
        consumer_key=caller.public_key,
        state=ParticipationState.WAITING_FOR_CONSENT,
        created_at=now,
        updated_at=now,
        beacon_reveal=fresh_nonce(),
        sealing_key=new_sealing_chain().to_text(),
    )

    def work(records: Records) -> Participation:
        if records.add(part):
            records.enqueue("learning.check_cohort", job_id, now)
            records.enqueue("learning.expire", job_id, _last_day(part, plan))
            note(records, job_id, now, "joined", "joined; waiting until enough learners consent")
            return part
        known = records.get(Participation, job_id)
        if known is None or (known.consumer, known.plan_digest, known.agreement_id) != (consumer, digest, agreement_id):
            raise ConflictError("this job id is in use")
        return known

    return node.store.run("participation.join", work)


def check_cohort(node: Node, job_id: str) -> Later | None:
    """Task: when enough learners consent, sign our approval; until then ask again. Never tells how many."""
    part = part_of(node, job_id)
    if part.state is not ParticipationState.WAITING_FOR_CONSENT:
        return None
    plan = plan_of(node, part)
    agreement = node.contracts.agreement(part.agreement_id)
    if agreement is None:
        stop(node, job_id, "the agreement is no longer in force")
        return None
    floor = max(plan.cohort_floor, agreement.cohort_floor)
    if not node.gate.floor_met(part.agreement_id, floor, plan.purpose):
        return later(node, _CONSENT_SECONDS)
    approval = sign_approval(node, part, plan)

    def work(records: Records) -> None:
        current = records.lock(Participation, job_id)
        if current is None or current.state is not ParticipationState.WAITING_FOR_CONSENT:
            return
        moved = move_participation(current, ParticipationEvent.FLOOR_MET, node.now())
        records.save(dataclasses.replace(moved, approval=approval))
        note(records, job_id, node.now(), "ready", "enough learners consent; our approval is signed")

    node.store.run("participation.ready", work)
    return None


def accept_manifest(node: Node, consumer: str, job_id: str, document: Mapping[str, Any]) -> str:
    """Recompute and check a job's manifest; accept the first one that is right, and only that one.

    Raises:
        RefusedError: the manifest does not recompute, or another one was accepted before.
    """
    checked = _check_manifest(node, part_of(node, job_id, consumer), document)
    now = node.now()

    def work(records: Records) -> str:
        current = records.lock(Participation, job_id)
        if current is None:
            raise UnknownError("no such job")
        if current.manifest is not None:
            if current.manifest != dict(document):
                raise RefusedError("second-manifest", "another manifest was accepted for this job")
            return current.state
        if current.state is not ParticipationState.READY:
            raise RefusedError("not-taking-part", f"this participation is {current.state}")
        moved = move_participation(current, ParticipationEvent.MANIFEST_ACCEPTED, now)
        records.save(dataclasses.replace(moved, manifest=dict(document)))
        note(records, job_id, now, "active", f"manifest {checked.digest[:12]} checked: {len(checked.members)} members")
        return moved.state

    return node.store.run("participation.manifest", work)


def expire(node: Node, job_id: str) -> Later | None:
    """Task: leave a job whose time is over and whose collector never said so. Every job ends, on this side, too."""
    part = part_of(node, job_id)
    if part.state in (ParticipationState.ENDED, ParticipationState.STOPPED):
        return None
    last = _last_day(part, plan_of(node, part))
    if node.now() < last:
        return Later(due_at=last)
    stop(node, job_id, "the time that the plan gives this job is over, and its collector did not end it")
    return None


def stop(node: Node, job_id: str, reason: str) -> None:
    """Leave a job: a policy, the transfer or the operator says so. Nothing of it runs here afterwards."""
    _finish(node, job_id, ParticipationEvent.STOP, reason)


def end(node: Node, consumer: str, job_id: str, reason: str) -> None:
    """The collector says that the job has ended."""
    part_of(node, job_id, consumer)
    _finish(node, job_id, ParticipationEvent.JOB_ENDED, reason)


def part_of(node: Node, job_id: str, consumer: str | None = None) -> Participation:
    """Return our part in a job.

    Raises:
        UnknownError: we have none, or ``consumer`` is not its owner.
    """
    part = node.store.run("participation.get", lambda records: records.get(Participation, job_id))
    if part is None or consumer not in (None, part.consumer):
        raise UnknownError("no such job")
    return part


def plan_of(node: Node, part: Participation) -> TrainingPlan:
    """Return the approved plan of our part in a job."""
    found = node.store.run("plan.get", lambda records: records.get(ReceivedPlan, part.plan_digest, part.agreement_id))
    if found is None:
        raise UnknownError("no such plan")
    return parse_plan(found.document["payload"])


def _finish(node: Node, job_id: str, event: ParticipationEvent, reason: str) -> None:
    now = node.now()

    def work(records: Records) -> bool:
        current = records.lock(Participation, job_id)
        if current is None or current.state in (ParticipationState.ENDED, ParticipationState.STOPPED):
            return False
        moved = move_participation(current, event, now, reason)
        # Seeds and nonces are of no further use; what cannot be read cannot leak.
        records.save(dataclasses.replace(moved, sealing_key="", beacon_reveal=""))
        note(records, job_id, now, "ended", reason)
        return True

    if node.store.run("participation.finish", work):
        node.snapshots.forget(job_id)
        scrub(node, job_id)


def _check_manifest(node: Node, part: Participation, document: Mapping[str, Any]) -> Manifest:
    plan = plan_of(node, part)
    try:
        checked = manifest_of(node, dict(document), part)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    terms = checked.terms
    if (terms.job, terms.plan) != (part.job_id, part.plan_digest):
        raise RefusedError("wrong-manifest", "the manifest is for another job or plan")
    members = len(checked.members)
    if terms.layout != layout(plan, members) or terms.n_max != most_contributors(plan, members):
        raise RefusedError("wrong-layout", "the manifest's vector is not the one that the plan gives")
    asked = plan.aggregation
    weaker = terms.n_min < leaf_floor(plan) or terms.aggregation != asked.mode or terms.granularity != plan.granularity
    if weaker or (asked.mode == "tree" and terms.shape != (asked.seats, asked.threshold)):
        raise RefusedError("wrong-terms", "the manifest lowers the floor or the protection that the plan promised")
    approvals = [member["approval"]["payload"] for member in document["payload"]["members"]]
    check_commitments(part, terms.epoch, {str(payload["participant"]): payload for payload in approvals})
    if part.approval is None or document_digest(part.approval) not in {member.approval for member in checked.members}:
        raise RefusedError("not-a-member", "the manifest does not hold our approval")
    return checked


def _last_day(part: Participation, plan: TrainingPlan) -> datetime:
    """Return when we leave by ourselves: after the time for recruiting, and once active after the job's own."""
    seconds = plan.job_seconds if part.state is ParticipationState.ACTIVE else plan.recruit_seconds
    began = part.updated_at if part.state is ParticipationState.ACTIVE else part.created_at
    return began + timedelta(seconds=seconds) + _SLACK


def _agreement(node: Node, agreement_id: str, consumer: str) -> AgreementTerms:
    agreement = node.contracts.agreement(agreement_id)
    if agreement is None or agreement.consumer != consumer or agreement.provider != node.participant_id:
        raise UnknownError("no such agreement")
    return agreement


def _judge(node: Node, agreement: AgreementTerms, plan: TrainingPlan) -> tuple[PlanState, str | None]:
    if plan.algorithm_class in _FORBIDDEN_CLASSES:
        return PlanState.REFUSED, "emotion inference is prohibited in education (AI Act, Article 5(1)(f))"
    if agreement.purpose is None or plan.purpose != agreement.purpose:
        return PlanState.REFUSED, f"purpose: the plan says {plan.purpose}, the agreement allows {agreement.purpose}"
    facts = node.snapshots.facts(agreement.dataset_id)
    if (plan.shape, plan.features) != (facts.get("shape"), facts.get("features")):
        return PlanState.REFUSED, "features: the plan was written for another feature view than this dataset publishes"
    if not node.automatic_approval:
        return PlanState.PENDING, "waiting for this provider's operator"
    return PlanState.APPROVED, None
