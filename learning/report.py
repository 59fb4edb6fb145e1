"""The report of a job: what was done, by whom, with what result; signed by the collector."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from learning.jobs import Job, JobLine, Member
from learning.models import parameter_count, parse_model
from learning.plans import TrainingPlan, plan_payload
from learning.release import Left
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
    *,
    timeline: Sequence[JobLine] = (),
    left: Left | None = None,
) -> dict[str, Any]:
    """Return the report's payload. It holds sums, counts of contributors, times and bytes; never one provider's number.

    Args:
        job: the job, with its last weights.
        plan: what was trained.
        members: the providers asked.
        rounds: every attempt at every round, in order.
        manifest: who contributed and who summed.
        names: participant id -> name for people, for every member.
        now: aware UTC time of the report.
        timeline: the collector's own lines about the job.
        left: what providers say about the release that contributed, but not to the last round.
    """
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
        "collector": {"participant": manifest.terms.collector, "organisation": manifest.terms.collector_organisation},
        "aggregation": _aggregation(plan, manifest),
        "tree": group_facts(manifest, job.replaced) if plan.aggregation.mode == "tree" else [],
        "privacy": {"cohort_floor": plan.cohort_floor, "differential_privacy": None},
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
        "left_before_release": {
            "released": list(left.allowed) if left else [],
            "silent": list(left.silent) if left else [],
        },
        "final": done[-1].metrics if done else None,
        "rounds": [_round(value) for value in rounds],
        "timeline": [{"at": line.at.isoformat(), "code": line.code, "text": line.text} for line in timeline],
    }


def group_facts(manifest: Manifest, replaced: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Return the groups of a job's tree, the top first: parent, seats as they are now, and the members of a leaf.

    Args:
        manifest: the job's manifest.
        replaced: group -> column -> times its seat has been replaced.
    """
    tree = manifest.tree
    if tree is None:
        return []
    found = []
    for name in tree.names:
        now = {int(column): times for column, times in replaced.get(name, {}).items()}
        leaf = tree.is_leaf(name)
        found.append(
            {
                "name": name,
                "parent": tree.parent(name),
                "leaf": leaf,
                "seats": list(tree.seats(name, now)),
                "first_seats": list(tree.seats(name)),
                "members": list(manifest.leaf_members(name)) if leaf else [],
            }
        )
    return found


def _aggregation(plan: TrainingPlan, manifest: Manifest) -> dict[str, Any]:
    group = manifest.group
    return {
        "mode": plan.aggregation.mode,
        "bits": plan.aggregation.bits,
        "seats": len(group.seats) if group else 0,
        "threshold": group.threshold if group else None,
        "quorum": group.quorum if group else None,
        "copies": group.copies if group else 1,
        "n_min": manifest.terms.n_min,
        "n_max": manifest.terms.n_max,
        "granularity": manifest.terms.granularity,
        "groups": len(manifest.tree.names) if manifest.tree else 0,
        "leaves": len(manifest.tree.leaves) if manifest.tree else 0,
        "depth": manifest.tree.depth if manifest.tree else 0,
    }


def _round(value: Round) -> dict[str, Any]:
    contributors = [name for name, _ in value.proposed or ()]
    return {
        "round": value.round,
        "attempt": value.attempt,
        "kind": str(value.kind),
        "state": str(value.state),
        "reason": value.reason,
        "model": value.model,
        "contributors": contributors,
        "expected": len(value.expected),
        "missing": [name for name in value.expected if name not in contributors],
        "counted": value.counted,
        "lost_seats": list(value.lost),
        "groups": value.groups,
        "opened_at": value.opened_at.isoformat(),
        "timing": value.timing,
        "sizes": value.sizes,
        "metrics": value.metrics,
    }
