"""The report of a job: what was done, by whom, with what result; signed by the collector."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from learning.jobs import Job, Member
from learning.models import parameter_count, parse_model
from learning.plans import TrainingPlan, plan_payload
from learning.rounds import Round, RoundState
from learning.secagg.manifest import Manifest

REPORT_KIND = "training-report"


def report_payload(
    job: Job,
    plan: TrainingPlan,
    members: Sequence[Member],
    rounds: Sequence[Round],
    manifest: Manifest,
    names: Mapping[str, str],
    now: datetime,
) -> dict[str, Any]:
    """Return the report's payload. It holds sums, counts of contributors, times and bytes; never one provider's number."""
    done = [value for value in rounds if value.state is RoundState.DONE]
    return {
        "version": "1",
        "job": job.job_id,
        "created_at": now.isoformat(),
        "started_at": job.created_at.isoformat(),
        "plan": plan_payload(plan),
        "plan_digest": job.plan_digest,
        "manifest_digest": manifest.digest,
        "weights": job.weights,
        "parameters": parameter_count(parse_model(plan.model)),
        "members": [
            {
                "participant": member.participant_id,
                "name": names[member.participant_id],
                "state": str(member.state),
                "reason": member.reason,
                "seat": manifest.group.seat_of(member.participant_id) if manifest.group else None,
            }
            for member in members
        ],
        "threshold": manifest.group.threshold if manifest.group else None,
        "warnings": list(manifest.placement.warnings),
        "final": done[-1].metrics if done else None,
        "rounds": [_round(value) for value in rounds],
    }


def _round(value: Round) -> dict[str, Any]:
    return {
        "round": value.round,
        "attempt": value.attempt,
        "kind": str(value.kind),
        "state": str(value.state),
        "reason": value.reason,
        "model": value.model,
        "contributors": [name for name, _ in value.proposed or ()],
        "expected": len(value.expected),
        "lost_seats": list(value.lost),
        "opened_at": value.opened_at.isoformat(),
        "timing": value.timing,
        "sizes": value.sizes,
        "metrics": value.metrics,
    }
