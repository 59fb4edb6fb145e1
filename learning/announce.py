"""The collector announces a round: a signed opening and the model, to every contributor."""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from learning.attempts import change_round, closing_time, round_key
from learning.collect import receive_notice
from learning.ending import fail_job
from learning.errors import PeerError
from learning.jobs import Job, JobState, Member, MemberState
from learning.members import call, call_each, load
from learning.node import Later, Node, later
from learning.placing import own_manifest
from learning.plans import TrainingPlan
from learning.ports import Records
from learning.rounds import OPENING_KIND, Round, RoundEvent, RoundKind, RoundState, move_round
from policies.canonical import canonical_json

_AGAIN_SECONDS = 0.3


def open_round(node: Node, job_id: str) -> Later | None:
    """Task: announce the job's current round attempt, with its model, to every contributor."""
    job, plan, members = load(node, job_id)
    if job.state is not JobState.RUNNING or job.weights is None:
        return None
    if node.now() >= own_manifest(node, job.manifest).terms.expires:
        fail_job(node, job_id, f"the job did not end within its {plan.job_seconds:g} s")
        return None
    active = sorted((m for m in members if m.state is MemberState.ACTIVE), key=lambda member: member.participant_id)
    row = _round_row(node, job, plan, active)
    if row.state is not RoundState.OPENING:
        return None
    row = _tell(node, job, row, [member for member in active if member.participant_id not in row.announced])
    silent = len(row.announced) < len(active)
    if silent and node.now() < row.opened_at + timedelta(seconds=plan.round_seconds / 2):
        return later(node, _AGAIN_SECONDS)
    _announced(node, row)
    return None


def _round_row(node: Node, job: Job, plan: TrainingPlan, members: Sequence[Member]) -> Round:
    now = node.now()
    value = Round(
        job_id=job.job_id,
        round=job.round,
        attempt=job.attempt,
        kind=RoundKind.EVALUATE if job.round > plan.rounds else RoundKind.TRAIN,
        state=RoundState.OPENING,
        model=job.weights or "",
        opened_at=now,
        deadline=now + timedelta(seconds=plan.round_seconds),
        expected=tuple(member.participant_id for member in members),
        replaced=job.replaced,
    )

    def work(records: Records) -> Round:
        # Who sits where is the same in all attempts at a round: nobody signs two sets for one seat.
        first = records.get(Round, job.job_id, job.round, 1) if job.attempt > 1 else None
        records.add(value if first is None else dataclasses.replace(value, replaced=first.replaced))
        return records.get(Round, job.job_id, job.round, job.attempt) or value

    return node.store.run("round.open", work)


def _tell(node: Node, job: Job, row: Round, waiting: Sequence[Member]) -> Round:
    """Announce to those who have not heard; a final refusal counts as that contributor's word about the round."""
    document, weights = _opening(node, job, row), node.blobs.get(row.model)
    answers = call_each(waiting, lambda member: _announce(node, row, member, document, weights))
    heard = []
    for member, error in zip(waiting, answers, strict=True):
        if error is not None and not error.final:
            continue
        heard.append(member.participant_id)
        if error is not None:
            body = {"uploaded": False, "code": error.code, "reason": str(error)}
            receive_notice(node, member.participant_id, row.job_id, row.round, row.attempt, body)

    def change(found: Round) -> Round:
        return dataclasses.replace(found, announced=tuple(dict.fromkeys((*found.announced, *heard))))

    return change_round(node, row, change)


def _opening(node: Node, job: Job, row: Round) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "job": row.job_id,
        "manifest": own_manifest(node, job.manifest).digest,
        "round": row.round,
        "attempt": row.attempt,
        "kind": row.kind,
        "model": row.model,
        "deadline": row.deadline.isoformat(),
    }
    if row.replaced:
        payload["replaced"] = row.replaced
    return node.signer.sign(OPENING_KIND, payload)


def _announce(node: Node, row: Round, member: Member, document: Mapping[str, Any], weights: bytes) -> PeerError | None:
    head = base64.urlsafe_b64encode(canonical_json(document)).decode()
    try:
        call(node, member, "POST", f"/jobs/{row.job_id}/rounds", content=weights, headers={"Orchard-Opening": head})
    except PeerError as error:
        return error
    return None


def _announced(node: Node, row: Round) -> None:
    now = node.now()

    def work(records: Records) -> None:
        found = records.lock(Round, row.job_id, row.round, row.attempt)
        if found is None or found.state is not RoundState.OPENING:
            return
        timing = found.timing | {"announced": (now - found.opened_at).total_seconds()}
        records.save(dataclasses.replace(move_round(found, RoundEvent.ANNOUNCED), timing=timing))
        records.enqueue("learning.close_round", round_key(row), closing_time(records, found, now))

    node.store.run("round.announced", work)
