"""One attempt at a round at its collector: read with everything that belongs to it, changed under a lock, given up."""

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta

from learning.ending import end_job
from learning.errors import UnknownError
from learning.jobs import Job, Member
from learning.members import load
from learning.node import Node
from learning.placing import own_manifest
from learning.plans import TrainingPlan
from learning.ports import Records
from learning.rounds import GroupAttempt, Notice, Round, RoundEvent, RoundState, move_round
from learning.secagg.context import RoundContext
from learning.secagg.manifest import Manifest
from learning.timeline import note

# Work that is looked at this long after its time ran out was not watched: the collector, or its broker, was away.
_UNWATCHED = timedelta(seconds=5)
# What the others get to be heard after the collector is back.
_BACK_AGAIN = timedelta(seconds=15)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a round: its row, and the job, plan, members, manifest and context that it belongs to.

    ``stored`` is the record of one group, where one was asked for.
    """

    job: Job
    plan: TrainingPlan
    members: dict[str, Member]
    row: Round
    manifest: Manifest
    context: RoundContext
    stored: GroupAttempt | None = None

    @property
    def key(self) -> str:
        """The work key of this attempt."""
        return round_key(self.row)

    def path(self, what: str) -> str:
        """Return the path below ``/learning`` of something about this attempt."""
        return f"/jobs/{self.row.job_id}/rounds/{self.row.round}/attempts/{self.row.attempt}/{what}"


def read_attempt(node: Node, job_id: str, number: int, attempt: int, group: str | None = None) -> Attempt:
    """Return an attempt of a job of ours, with the record of ``group`` if that is given.

    Raises:
        UnknownError: there is no such job or attempt.
    """
    job, plan, members = load(node, job_id)

    def work(records: Records) -> tuple[Round | None, GroupAttempt | None]:
        stored = None if group is None else records.get(GroupAttempt, job_id, number, attempt, group)
        return records.get(Round, job_id, number, attempt), stored

    row, stored = node.store.run("round.get", work)
    if row is None:
        raise UnknownError("no such round")
    manifest = own_manifest(node, job.manifest)
    return Attempt(
        job=job,
        plan=plan,
        members={member.participant_id: member for member in members},
        row=row,
        manifest=manifest,
        context=manifest.context(round=number, attempt=attempt, model=row.model),
        stored=stored,
    )


def round_key(row: Round) -> str:
    """Return the work key of a round attempt."""
    return f"{row.job_id}|{row.round}|{row.attempt}"


def parse_round_key(key: str) -> tuple[str, int, int]:
    """Return job id, round and attempt of a work key."""
    job_id, number, attempt = key.rsplit("|", 2)
    return job_id, int(number), int(attempt)


def closing_time(records: Records, row: Round, now: datetime) -> datetime:
    """Return when to look whether an attempt can be closed: at once when all have spoken or one failed, else at its deadline."""
    notices = records.select(Notice, row.job_id, row.round, row.attempt)
    if len(notices) >= len(row.expected) or not all(notice.uploaded for notice in notices):
        return now
    return row.deadline


def change_round(node: Node, row: Round, change: Callable[[Round], Round]) -> Round:
    """Change an attempt as it is stored now, not as it was when somebody read it."""

    def work(records: Records) -> Round:
        current = records.lock(Round, row.job_id, row.round, row.attempt)
        if current is None:
            raise UnknownError("no such round")
        changed = change(current)
        if changed != current:
            records.save(changed)
        return changed

    return node.store.run("round.update", work)


def abort(node: Node, attempt: Attempt, reason: str) -> None:
    """Give an attempt up; try again while the plan allows, else end the job with the reason, in one transaction."""
    now, value = node.now(), attempt.row
    last = value.attempt >= attempt.plan.round_attempts

    def work(records: Records) -> None:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        job = records.lock(Job, value.job_id)
        if row is None or job is None or row.state in (RoundState.DONE, RoundState.ABORTED):
            return
        records.save(move_round(row, RoundEvent.GIVE_UP, reason))
        note(records, value.job_id, now, f"round-{value.round}", f"attempt {value.attempt} given up: {reason}")
        if (job.round, job.attempt) != (value.round, value.attempt):
            return
        if last:
            end_job(records, value.job_id, f"after {value.attempt} attempts, {reason}", now)
            return
        records.save(dataclasses.replace(job, attempt=value.attempt + 1, updated_at=now))
        records.enqueue("learning.open_round", value.job_id, now)

    node.store.run("round.abort", work)


def extend(node: Node, row: Round, limit: datetime) -> Round | None:
    """Give an attempt more time, once, if nobody watched when its ``limit`` passed; None where that is not so.

    What the others had to say waited for us: they repeat it within a second of our return.
    """
    now = node.now()
    if row.extended or now <= limit + _UNWATCHED:
        return None
    return change_round(node, row, lambda found: dataclasses.replace(found, deadline=now + _BACK_AGAIN, extended=True))
