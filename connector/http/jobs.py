"""Management routes for training plans and jobs: what an AI provider starts and follows, what a provider approves."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from connector.http.access import Reader, Writer
from connector.http.learning_route import Raw
from connector.http.problems import ProblemError
from learning import challenges, ending, provide, recruit
from learning.jobs import JOB_ENDS, Job, JobEvent, JobLine, Member, OwnPlan, Participation, ReceivedPlan
from learning.node import Node
from learning.placing import own_manifest
from learning.ports import Records
from learning.report import group_facts
from learning.rounds import Round, Step

_FOLLOW_SECONDS = 0.4


class JobRequest(BaseModel):
    """Which plan to run, over which agreements (one per provider)."""

    model_config = ConfigDict(extra="forbid")

    plan_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    agreements: list[str] = Field(min_length=1, max_length=10_000)


class Decision(BaseModel):
    """Why an operator approves or refuses."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(None, max_length=500)


class MemberView(BaseModel):
    """A provider of a job."""

    participant_id: str
    name: str
    agreement_id: str
    transfer_pid: str | None
    state: str
    reason: str | None


class RoundView(BaseModel):
    """One attempt at a round. ``metrics`` describe the model that the round started from."""

    round: int
    attempt: int
    kind: str
    state: str
    reason: str | None
    opened_at: datetime
    deadline: datetime
    expected: int
    contributors: list[str]
    timing: dict[str, float]
    sizes: dict[str, int]
    metrics: dict[str, Any] | None


class LineView(BaseModel):
    """One line of a job's timeline."""

    number: int
    at: datetime
    code: str
    text: str


class JobView(BaseModel):
    """A job at its collector."""

    job_id: str
    plan_digest: str
    state: str
    reason: str | None
    round: int
    created_at: datetime
    updated_at: datetime
    model: str | None
    members: list[MemberView] = []
    rounds: list[RoundView] = []
    timeline: list[LineView] = []


def jobs_router(node: Node) -> APIRouter:
    """Return the routes under ``/management`` for plans, jobs and participations."""
    router = APIRouter(prefix="/management", tags=["jobs"])
    _plan_routes(router, node)
    _job_routes(router, node)
    _result_routes(router, node)
    _provider_routes(router, node)
    return router


def _plan_routes(router: APIRouter, node: Node) -> None:
    @router.post("/plans", status_code=201)
    def register_plan(_operator: Writer, plan: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        """Check, sign and keep a training plan; it is named by its digest from now on."""
        own = recruit.register_plan(node, plan)
        return {"plan_digest": own.plan_digest, "document": own.document}

    @router.get("/plans/{digest}")
    def read_plan(_operator: Reader, digest: str) -> dict[str, Any]:
        """Return one of our signed plans."""
        own = node.store.run("plan.get", lambda records: records.get(OwnPlan, digest))
        if own is None:
            raise _unknown("plan")
        return {"plan_digest": own.plan_digest, "document": own.document}

    @router.post("/weights", status_code=201)
    def keep_weights(_operator: Writer, weights: Raw) -> dict[str, str]:
        """Keep initial weights (safetensors); a plan names them by this digest."""
        return {"sha256": node.blobs.put(weights)}


def _job_routes(router: APIRouter, node: Node) -> None:
    @router.post("/jobs", status_code=201)
    def start_job(_operator: Writer, body: JobRequest) -> JobView:
        """Start a job over agreements of ours; recruiting begins at once."""
        return _view(node, recruit.start_job(node, body.plan_digest, body.agreements), full=False)

    @router.get("/jobs")
    def list_jobs(_operator: Reader, state: Annotated[str | None, Query()] = None) -> list[JobView]:
        """Return our jobs, newest first."""
        jobs = node.store.run("job.list", lambda records: records.select(Job))
        chosen = [job for job in jobs if state in (None, job.state)]
        return [_view(node, job, full=False) for job in sorted(chosen, key=lambda job: job.created_at, reverse=True)]

    @router.get("/jobs/{job_id}")
    def read_job(_operator: Reader, job_id: str) -> JobView:
        """Return a job with its members, rounds and timeline."""
        return _view(node, _job(node, job_id), full=True)

    @router.post("/jobs/{job_id}/cancel")
    def cancel_job(_operator: Writer, job_id: str, body: Decision) -> JobView:
        """End a job now."""
        _job(node, job_id)
        ending.fail_job(node, job_id, body.reason or "cancelled by its owner", JobEvent.CANCEL)
        return _view(node, _job(node, job_id), full=False)

    @router.get("/jobs/{job_id}/events")
    def follow_job(_operator: Reader, job_id: str, after: Annotated[int, Query(ge=0)] = 0) -> StreamingResponse:
        """Follow a job's timeline as server-sent events; ends when the job does."""
        _job(node, job_id)
        return StreamingResponse(_follow(node, job_id, after), media_type="text/event-stream")


def _result_routes(router: APIRouter, node: Node) -> None:
    @router.get("/jobs/{job_id}/model", responses={200: {"content": {"application/octet-stream": {}}}})
    def fetch_model(_operator: Reader, job_id: str) -> Response:
        """Return the weights of a completed job (safetensors)."""
        job = _job(node, job_id)
        if job.report is None or job.weights is None:
            raise ProblemError(409, "job-not-complete", "No result yet", f"The job is {job.state}: {job.reason or ''}")
        return Response(node.blobs.get(job.weights), media_type="application/octet-stream")

    @router.get("/jobs/{job_id}/report")
    def fetch_report(_operator: Reader, job_id: str) -> dict[str, Any]:
        """Return the signed report of a completed job."""
        job = _job(node, job_id)
        if job.report is None:
            raise ProblemError(409, "job-not-complete", "No result yet", f"The job is {job.state}: {job.reason or ''}")
        document: dict[str, Any] = json.loads(node.blobs.get(job.report))
        return document

    @router.get("/jobs/{job_id}/tree")
    def read_tree(_operator: Reader, job_id: str) -> dict[str, Any]:
        """Return who contributes, who holds a seat in which group, what became of them, and the manifest."""
        job = _job(node, job_id)
        manifest = own_manifest(node, job.manifest)
        rounds = node.store.run("job.tree", lambda records: records.select(Round, job_id))
        return {
            "aggregation": manifest.terms.aggregation,
            "granularity": manifest.terms.granularity,
            "groups": group_facts(manifest, job.replaced),
            "columns": [] if manifest.tree is None else [list(ring) for ring in manifest.tree.columns],
            "rounds": [
                {"round": row.round, "attempt": row.attempt, "counted": row.counted, "groups": row.groups}
                for row in rounds
                if row.groups
            ],
            "manifest_digest": manifest.digest,
            "beacon": manifest.beacon,
            "collector": node.participant_id,
            "seats": list(manifest.placement.seats),
            "threshold": manifest.placement.threshold,
            "warnings": list(manifest.placement.warnings),
            "contributors": [member.participant for member in manifest.members],
            "document": job.manifest,
        }

    @router.get("/jobs/{job_id}/evidence")
    def read_evidence(_operator: Reader, job_id: str) -> list[dict[str, Any]]:
        """Return the files that convict a seat of this job; `orchard audit evidence` checks one offline."""
        _job(node, job_id)
        return challenges.evidence_of(node, job_id)


def _provider_routes(router: APIRouter, node: Node) -> None:
    @router.get("/received-plans")
    def received_plans(_operator: Reader) -> list[dict[str, Any]]:
        """Return the plans that consumers of our agreements registered here."""
        found = node.store.run("plan.list", lambda records: records.select(ReceivedPlan))
        return [_received(plan) for plan in found]

    @router.post("/received-plans/{digest}/approve")
    def approve(
        _operator: Writer, digest: str, agreement_id: Annotated[str, Query()], body: Decision
    ) -> dict[str, Any]:
        """Approve a pending plan by its digest."""
        return _received(provide.decide_plan(node, digest, agreement_id, approve=True, reason=body.reason))

    @router.post("/received-plans/{digest}/refuse")
    def refuse(_operator: Writer, digest: str, agreement_id: Annotated[str, Query()], body: Decision) -> dict[str, Any]:
        """Refuse a pending plan by its digest, with a reason that its author will see."""
        reason = body.reason or "refused by this provider's operator"
        return _received(provide.decide_plan(node, digest, agreement_id, approve=False, reason=reason))

    @router.get("/participations")
    def participations(_operator: Reader) -> list[dict[str, Any]]:
        """Return our parts in other participants' jobs."""
        found = node.store.run("participation.list", lambda records: records.select(Participation))
        return [_participation(part, []) for part in found]

    @router.get("/participations/{job_id}")
    def participation(_operator: Reader, job_id: str) -> dict[str, Any]:
        """Return our part in a job with our own card: what our data measured and cost in each round."""

        def work(records: Records) -> tuple[Participation | None, list[Step], list[JobLine]]:
            return records.get(Participation, job_id), records.select(Step, job_id), records.select(JobLine, job_id)

        part, steps, lines = node.store.run("participation.read", work)
        if part is None:
            raise _unknown("job")
        timeline = [_line(line).model_dump(mode="json") for line in lines]
        return _participation(part, steps) | {"timeline": timeline}

    @router.post("/participations/{job_id}/stop")
    def stop(_operator: Writer, job_id: str, body: Decision) -> dict[str, Any]:
        """Leave a job now; nothing of it runs here afterwards."""
        provide.part_of(node, job_id)
        provide.stop(node, job_id, body.reason or "stopped by this provider's operator")
        return _participation(provide.part_of(node, job_id), [])


def _job(node: Node, job_id: str) -> Job:
    job = node.store.run("job.get", lambda records: records.get(Job, job_id))
    if job is None:
        raise _unknown("job")
    return job


def _view(node: Node, job: Job, *, full: bool) -> JobView:
    def work(records: Records) -> tuple[list[Member], list[Round], list[JobLine]]:
        lines = records.select(JobLine, job.job_id) if full else []
        rounds = records.select(Round, job.job_id) if full else []
        return records.select(Member, job.job_id), rounds, lines

    members, rounds, lines = node.store.run("job.view", work)
    return JobView(
        job_id=job.job_id,
        plan_digest=job.plan_digest,
        state=job.state,
        reason=job.reason,
        round=job.round,
        created_at=job.created_at,
        updated_at=job.updated_at,
        model=job.weights if job.report else None,
        members=[_member(node, member) for member in members],
        rounds=[_round(value) for value in rounds],
        timeline=[_line(line) for line in lines],
    )


def _member(node: Node, member: Member) -> MemberView:
    return MemberView(
        participant_id=member.participant_id,
        name=node.peers.name(member.participant_id),
        agreement_id=member.agreement_id,
        transfer_pid=member.transfer_pid,
        state=member.state,
        reason=member.reason,
    )


def _round(value: Round) -> RoundView:
    return RoundView(
        round=value.round,
        attempt=value.attempt,
        kind=value.kind,
        state=value.state,
        reason=value.reason,
        opened_at=value.opened_at,
        deadline=value.deadline,
        expected=len(value.expected),
        contributors=[name for name, _ in value.proposed or ()],
        timing=value.timing,
        sizes=value.sizes,
        metrics=value.metrics,
    )


def _line(line: JobLine) -> LineView:
    return LineView(number=line.number, at=line.at, code=line.code, text=line.text)


def _received(plan: ReceivedPlan) -> dict[str, Any]:
    return {
        "plan_digest": plan.plan_digest,
        "agreement_id": plan.agreement_id,
        "consumer": plan.consumer,
        "state": plan.state,
        "reason": plan.reason,
        "received_at": plan.received_at.isoformat(),
        "plan": plan.document["payload"],
    }


def _participation(part: Participation, steps: list[Step]) -> dict[str, Any]:
    return {
        "job_id": part.job_id,
        "plan_digest": part.plan_digest,
        "agreement_id": part.agreement_id,
        "dataset_id": part.dataset_id,
        "consumer": part.consumer,
        "state": part.state,
        "reason": part.reason,
        "rounds": [
            {
                "round": step.round,
                "attempt": step.attempt,
                "kind": step.kind,
                "state": step.state,
                "code": step.code,
                "reason": step.reason,
                "card": step.local,
                "cost": step.cost,
            }
            for step in steps
        ],
    }


async def _follow(node: Node, job_id: str, after: int) -> AsyncIterator[str]:
    while True:
        job, lines = await run_in_threadpool(_news, node, job_id, after)
        for line in lines:
            after = line.number
            yield f"id: {line.number}\nevent: {line.code}\ndata: {json.dumps({'at': line.at.isoformat(), 'text': line.text})}\n\n"
        if job is None or job.state in JOB_ENDS:
            state = {"state": job.state if job else None, "reason": job.reason if job else None}
            yield f"event: end\ndata: {json.dumps(state)}\n\n"
            return
        await asyncio.sleep(_FOLLOW_SECONDS)


def _news(node: Node, job_id: str, after: int) -> tuple[Job | None, list[JobLine]]:
    def work(records: Records) -> tuple[Job | None, list[JobLine]]:
        lines = [line for line in records.select(JobLine, job_id) if line.number > after]
        return records.get(Job, job_id), lines

    return node.store.run("job.news", work)


def _unknown(what: str) -> ProblemError:
    return ProblemError(404, "not-found", "Not found", f"There is no such {what} here.")
