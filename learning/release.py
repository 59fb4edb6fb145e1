"""The release of a model, asked of providers that left: their learners' records are in it, and their policy still counts.

Whoever takes part in the last round decides there. Whoever contributed before and is not in it (it withdrew its
agreement, its learners left, it lost its network) is asked by itself before the report is signed. One that says no keeps
the model from everybody. One that stays silent was asked at every round it took part in, and is named in the report.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from learning.errors import PeerError, RefusedError, UnknownError
from learning.jobs import Job, Member
from learning.members import call_each, good_answer
from learning.node import Node
from learning.provide import part_of, plan_of
from learning.rounds import Round, RoundKind, RoundState

# How long a provider that left is asked before the report goes on without its word.
_PATIENCE = timedelta(seconds=20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    """What the providers say that contributed and were not in the last round; by participant id.

    Attributes:
        denied: who keeps the model, and why.
        allowed: who lets it go.
        silent: who did not answer.
        patient: whether it is too early to go on without the silent ones.
    """

    denied: Mapping[str, str]
    allowed: tuple[str, ...]
    silent: tuple[str, ...]
    patient: bool


def ask_who_left(node: Node, job: Job, members: Sequence[Member], rounds: Sequence[Round]) -> Left:
    """Ask every provider that contributed to a finished round, but not to the last one, whether the model may go."""
    done = [row for row in rounds if row.state is RoundState.DONE]
    here = {name for row in done if row.kind is RoundKind.EVALUATE for name in _contributors(row)}
    before = {name for row in done for name in _contributors(row)}
    gone = [member for member in members if member.participant_id in before - here]
    answers = dict(
        zip([member.participant_id for member in gone], call_each(gone, lambda one: _ask(node, job, one)), strict=True)
    )
    return Left(
        denied={name: said for name, said in answers.items() if said},
        allowed=tuple(sorted(name for name, said in answers.items() if said == "")),
        silent=tuple(sorted(name for name, said in answers.items() if said is None)),
        patient=node.now() < job.updated_at + _PATIENCE,
    )


def say(node: Node, consumer: str, job_id: str) -> dict[str, Any]:
    """Decide, as a provider, whether the model of a job that we contributed to may leave it; also after we left.

    Raises:
        UnknownError: we have no part in this job, or the caller does not own it.
        RefusedError: we never took part in a round of it.
    """
    part = part_of(node, job_id, consumer)
    if part.manifest is None:
        raise RefusedError("not-taking-part", "this provider took no part in the job")
    plan = plan_of(node, part)
    answer = node.gate.release(
        part.agreement_id, plan.purpose, plan.algorithm_class, None, job_id=job_id, round_number=plan.rounds + 1
    )
    return {"allowed": answer.allowed, "reasons": list(answer.reasons)}


def _contributors(row: Round) -> list[str]:
    # At the granularity of learners a contributor is named behind its provider.
    return [name.partition("#")[0] for name, *_ in row.proposed or ()]


def _ask(node: Node, job: Job, member: Member) -> str | None:
    """Return why a provider keeps the model, nothing when it lets it go, None when it does not say."""
    try:
        reply = node.peers.call(member.participant_id, "POST", f"/jobs/{job.job_id}/release", json={})
        found = good_answer(node, member.participant_id, reply)
    except PeerError as error:
        if error.final and error.code != UnknownError.code:
            return str(error)
        return None
    if found.get("allowed") is True:
        return ""
    reasons = found.get("reasons")
    listed = "; ".join(str(reason) for reason in reasons[:5]) if isinstance(reasons, list) else ""
    return (listed or "its policy does not release the model")[:500]
