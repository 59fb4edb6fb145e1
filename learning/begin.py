"""The collector begins a job: reveals, placement, a signed manifest that every member accepts, the first model."""

import dataclasses
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from learning.draw import draw
from learning.ending import fail_job
from learning.errors import PeerError, UnknownError
from learning.jobs import Job, JobEvent, JobState, Member, MemberState, move_job
from learning.members import call, change_member
from learning.models import initial_weights, parse_model, save_weights
from learning.node import Later, Node, later
from learning.placement import LAST_EPOCH
from learning.placing import identify
from learning.plans import TrainingPlan
from learning.pledge import rounds_of
from learning.ports import Records
from learning.secagg.errors import SecureAggregationError
from learning.secagg.manifest import Terms, Topology, build_manifest
from learning.shape import tree_shape
from learning.timeline import note
from learning.vectors import layout, leaf_floor, most_contributors

_ASK_AGAIN_SECONDS = 0.5
# How much longer than the time for recruiting a member that was ready may be silent.
_PLACING = timedelta(minutes=1)


def begin(node: Node, job: Job, plan: TrainingPlan, members: Sequence[Member]) -> Later | None:
    """Collect the reveals, compute the placement, sign the manifest and have every member check it; then train.

    Returns:
        when to ask again, or None when the job runs or has ended.
    """
    if job.beacon_epoch > LAST_EPOCH:
        fail_job(node, job.job_id, f"{job.beacon_epoch} members committed and did not reveal, one after the other")
        return None
    patience = _patience(job, plan)
    revealed = draw(node, job, members, patient=node.now() < patience)
    if revealed is None:
        return later(node, _ASK_AGAIN_SECONDS)
    if job.manifest is None:
        try:
            document = _manifest(node, job, plan, revealed)
        except SecureAggregationError as error:
            fail_job(node, job.job_id, f"the members cannot be placed: {error}")
            return None
        job = _keep_manifest(node, job, document)
    for member in revealed:
        try:
            _hand_out(node, job, member)
        except PeerError as error:
            if not error.final and node.now() < patience:
                return later(node, _ASK_AGAIN_SECONDS)
            fail_job(node, job.job_id, f"a member did not accept the manifest: {error}")
            return None
    _run(node, job, plan)
    return None


def _patience(job: Job, plan: TrainingPlan) -> datetime:
    return job.created_at + timedelta(seconds=plan.recruit_seconds) + _PLACING


def _hand_out(node: Node, job: Job, member: Member) -> None:
    if member.state is MemberState.ACTIVE:
        return
    call(node, member, "POST", f"/jobs/{job.job_id}/manifest", json=job.manifest)
    change_member(node, member, lambda row: dataclasses.replace(row, state=MemberState.ACTIVE))


def _manifest(node: Node, job: Job, plan: TrainingPlan, members: Sequence[Member]) -> dict[str, Any]:
    wanted, check = plan.aggregation, identify(node)
    organisations = {check((member.approval or {})["payload"]).organisation for member in members}
    terms = Terms(
        job=job.job_id,
        plan=job.plan_digest,
        collector=node.participant_id,
        collector_organisation=node.organisation,
        layout=layout(plan, len(members)),
        n_min=leaf_floor(plan),
        n_max=most_contributors(plan, len(members)),
        expires=node.now() + timedelta(seconds=plan.job_seconds),
        round_seconds=math.ceil(plan.round_seconds),
        aggregation=wanted.mode,
        # Two providers alone can only make the (2, 1) group; placement says what that costs.
        shape=(wanted.seats, wanted.threshold) if wanted.mode == "tree" or len(organisations) >= wanted.seats else None,
        epoch=job.beacon_epoch,
        rounds=rounds_of(plan),
        granularity=plan.granularity,
        topology=_topology(plan, members) if wanted.mode == "tree" else None,
    )
    document, _ = build_manifest(
        terms,
        [member.approval or {} for member in members],
        {member.participant_id: member.reveal or "" for member in members},
        identify=check,
        signer=node.signer,
    )
    return document


def _topology(plan: TrainingPlan, members: Sequence[Member]) -> Topology:
    """Return the form of the tree that is estimated to be quickest for what the approvals say of sizes."""
    sections, wanted = layout(plan, len(members)), plan.aggregation
    bands = [int((member.approval or {})["payload"].get("learners_from", 1)) for member in members]
    # The middle of a band of one power of ten.
    learners = sum(3 * band for band in bands)
    form = tree_shape(
        n=len(members) if plan.granularity == "provider" else learners,
        d=sections.d,
        k=sections.k,
        shape=(wanted.seats, wanted.threshold),
        members=len(members),
        n_min=leaf_floor(plan),
        granularity=plan.granularity,
        fan_out=wanted.fan_out,
    )
    return Topology(leaves=form.leaves, fan_out=form.fan_out)


def _keep_manifest(node: Node, job: Job, document: dict[str, Any]) -> Job:
    def work(records: Records) -> Job:
        current = records.lock(Job, job.job_id)
        if current is None:
            raise UnknownError("no such job")
        if current.manifest is not None:
            return current
        kept = dataclasses.replace(current, manifest=document)
        records.save(kept)
        seats, groups = len(document["payload"]["seats"]), len(document["payload"].get("tree", {}).get("groups", ()))
        form = f"{groups} groups of {seats} seats" if groups else f"{seats} seats"
        text = f"manifest signed: {len(document['payload']['members'])} members, {form}"
        note(records, job.job_id, node.now(), "placed", text)
        return kept

    return node.store.run("job.manifest", work)


def _run(node: Node, job: Job, plan: TrainingPlan) -> None:
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
