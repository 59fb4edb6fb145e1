"""The collector: opens rounds, closes the set, adds the seats' shares, and moves the model by the mean update."""

import base64
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from learning.errors import NotYetError, PeerError, RefusedError, UnknownError
from learning.jobs import Job, JobState, Member, MemberState
from learning.node import Later, Node, later
from learning.placing import own_manifest
from learning.plans import TrainingPlan
from learning.ports import Records
from learning.recruit import call, fail_job, load
from learning.rounds import ClearUpload, Notice, Round, RoundEvent, RoundKind, RoundState, SeatShare, move_round, quorum
from learning.secagg.collector import open_orders
from learning.secagg.context import RoundContext
from learning.secagg.errors import SeatsLostError, SecureAggregationError
from learning.secagg.header import verify_header
from learning.secagg.manifest import Manifest
from learning.secagg.seat import accept_vector
from learning.secagg.sets import ContributorSet, verify_quorum
from learning.secagg.shares import ShareHeader, verify_share
from learning.timeline import note
from policies.canonical import canonical_json

OPENING_KIND = "round-opening"
_AGAIN_SECONDS = 0.3
# How long a seat that signed may be silent before its co-holders take its work over.
_SEAT_GRACE_SECONDS = 20.0
T = TypeVar("T")


def round_key(value: Round) -> str:
    """Return the work key of a round attempt."""
    return f"{value.job_id}|{value.round}|{value.attempt}"


def open_round(node: Node, job_id: str) -> Later | None:
    """Task: announce the job's current round attempt, with its model, to every contributor."""
    job, plan, members = load(node, job_id)
    if job.state is not JobState.RUNNING or job.weights is None:
        return None
    active = sorted((m for m in members if m.state is MemberState.ACTIVE), key=lambda member: member.participant_id)
    value = _round_row(node, job, plan, active)
    if value.state is not RoundState.OPENING:
        return None
    waiting = [member for member in active if member.participant_id not in value.announced]
    document, weights = _opening(node, value), node.blobs.get(value.model)
    answers = _each(waiting, lambda member: _announce(node, value, member, document, weights))
    reached = [member.participant_id for member, error in zip(waiting, answers, strict=True) if error is None]
    gone = [(m, e) for m, e in zip(waiting, answers, strict=True) if e is not None and e.final]
    for member, error in gone:
        _note_failure(node, value, member, error)
    announced = (*value.announced, *reached, *(member.participant_id for member, _ in gone))
    silent = len(announced) < len(active)
    patience = value.opened_at + timedelta(seconds=plan.round_seconds / 2)
    if silent and node.now() < patience:
        _update(node, value, lambda row: dataclasses.replace(row, announced=announced))
        return later(node, _AGAIN_SECONDS)

    def work(records: Records) -> None:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        if row is None or row.state is not RoundState.OPENING:
            return
        timing = row.timing | {"announced": (node.now() - row.opened_at).total_seconds()}
        opened = dataclasses.replace(move_round(row, RoundEvent.ANNOUNCED), announced=announced, timing=timing)
        records.save(opened)
        records.enqueue("learning.close_round", round_key(row), node.now())

    node.store.run("round.announced", work)
    return None


def receive_notice(node: Node, sender: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> None:
    """Take a contributor's word about its step; the round closes when all have spoken.

    Raises:
        UnknownError: the caller is no contributor of this round.
    """
    now = node.now()
    fields = {name: body.get(name) for name in ("header_digest", "code", "reason")}
    notice = Notice(
        job_id=job_id,
        round=number,
        attempt=attempt,
        participant_id=sender,
        uploaded=body.get("uploaded") is True,
        **{name: None if value is None else str(value)[:300] for name, value in fields.items()},
    )

    def work(records: Records) -> None:
        row = records.get(Round, job_id, number, attempt)
        if row is None or sender not in row.expected:
            raise UnknownError("no such round")
        if records.add(notice):
            records.enqueue("learning.close_round", round_key(row), now)
            if not notice.uploaded:
                text = f"round {number}: {node.peers.name(sender)} could not contribute: {notice.code}: {notice.reason}"
                note(records, job_id, now, f"round-{number}", text)

    node.store.run("round.notice", work)


def receive_share(
    node: Node, sender: str, job_id: str, number: int, attempt: int, document: Mapping[str, Any], vector: bytes
) -> None:
    """Take a seat's share, once its signature, its set and its bytes are right.

    Raises:
        UnknownError: no such round.
        NotYetError: the set is not final yet.
        RefusedError: the share is wrong.
    """
    _, _, value, manifest, context = _open(node, job_id, number, attempt)
    if manifest.group is None or value.proposed is None:
        raise NotYetError("the set of this round is not final yet")
    proposed = ContributorSet.from_json(value.proposed)
    try:
        header = verify_share(document, vector, proposed, context=context, group=manifest.group)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if manifest.group.seats[header.column].participant != sender:
        raise RefusedError("wrong-sender", "the share is another seat's")
    share = SeatShare(
        job_id=job_id,
        round=number,
        attempt=attempt,
        seat=header.column,
        number=len(header.lost),
        document=dict(document),
        vector=node.blobs.put(vector),
    )
    now = node.now()

    def work(records: Records) -> None:
        if records.add(share):
            records.enqueue("learning.finish_round", round_key(value), now)

    node.store.run("round.share", work)


def receive_clear(
    node: Node, sender: str, job_id: str, number: int, attempt: int, envelope: Mapping[str, Any], vector: bytes
) -> None:
    """Take a plain contribution, in a job whose contracts allow ``clear``.

    Raises:
        UnknownError: no such round, or the job is not clear.
        RefusedError: the header or the vector is wrong.
    """
    _, _, value, manifest, context = _open(node, job_id, number, attempt)
    document = envelope.get("document")
    if manifest.terms.aggregation != "clear" or not isinstance(document, Mapping):
        raise UnknownError("no such round")
    try:
        header = verify_header(document, context, manifest.keys, seeds=0, boxes=0)
        accept_vector(header, vector, context)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if header.participant != sender:
        raise RefusedError("wrong-sender", "the header is another contributor's")
    upload = ClearUpload(
        job_id=job_id,
        round=value.round,
        attempt=attempt,
        participant_id=header.contributor,
        header_digest=header.digest,
        vector=node.blobs.put(vector),
    )
    node.store.run("round.clear", lambda records: records.add(upload))


def close_round(node: Node, key: str) -> Later | None:
    """Task: close the set when k of n have spoken, have the seats sign it, and order its release."""
    job_id, number, attempt = key.rsplit("|", 2)
    job, plan, value, manifest, context = _open(node, job_id, int(number), int(attempt))
    if job.state is not JobState.RUNNING or value.state not in (RoundState.TRAINING, RoundState.AGREEING):
        return None
    if value.state is RoundState.TRAINING:
        notices = {notice.participant_id: notice for notice in _notices(node, value)}
        answer = quorum(value, notices, plan.min_contributors, node.now())
        if answer.reason is not None:
            abort(node, job, plan, value, answer.reason)
            return None
        if not answer.ready:
            return Later(due_at=value.deadline)
        uploads = {name: notices[name].header_digest or "" for name in answer.contributors}
        value = _fix_set(node, value, ContributorSet.of(uploads))
    if manifest.group is None:
        _sign_off(node, value, [])
        return None
    return _agree(node, job, plan, value, manifest, context)


def abort(node: Node, job: Job, plan: TrainingPlan, value: Round, reason: str) -> None:
    """Give an attempt up; try again while the plan allows, else end the job with the reason."""
    now = node.now()
    last = value.attempt >= plan.round_attempts

    def work(records: Records) -> bool:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        current = records.lock(Job, value.job_id)
        if row is None or current is None or row.state in (RoundState.DONE, RoundState.ABORTED):
            return False
        records.save(move_round(row, RoundEvent.GIVE_UP, reason))
        note(records, value.job_id, now, f"round-{value.round}", f"attempt {value.attempt} given up: {reason}")
        if not last and (current.round, current.attempt) == (value.round, value.attempt):
            records.save(dataclasses.replace(current, attempt=value.attempt + 1, updated_at=now))
            records.enqueue("learning.open_round", value.job_id, now)
        return True

    if node.store.run("round.abort", work) and last:
        fail_job(node, job.job_id, f"after {value.attempt} attempts, {reason}")


def shares_of(
    node: Node, value: Round, proposed: ContributorSet, context: RoundContext, manifest: Manifest
) -> list[tuple[ShareHeader, Callable[[], bytes]]]:
    """Return the shares that have arrived, each with a function that loads it."""
    rows = node.store.run(
        "round.shares", lambda records: records.select(SeatShare, value.job_id, value.round, value.attempt)
    )
    if manifest.group is None:
        return []
    group = manifest.group
    found: list[tuple[ShareHeader, Callable[[], bytes]]] = []
    for row in rows:
        data = node.blobs.get(row.vector)
        header = verify_share(row.document, data, proposed, context=context, group=group)
        found.append((header, lambda data=data: data))  # type: ignore[misc]
    return found


def chase_seats(node: Node, value: Round, manifest: Manifest, context: RoundContext, plan: TrainingPlan) -> Later | str:
    """Order (again) what seats still owe; after a grace, give a silent seat's work to its co-holders.

    Returns:
        when to look again, or the reason why the round cannot be finished.
    """
    if manifest.group is None or value.proposed is None:
        return "the round has no set"
    proposed = ContributorSet.from_json(value.proposed)
    shares = [header for header, _ in shares_of(node, value, proposed, context, manifest)]
    signed_at = value.opened_at + timedelta(seconds=value.timing.get("signed", 0.0))
    lost = frozenset(value.lost)
    if node.now() > value.deadline + timedelta(seconds=plan.round_seconds):
        return "the seats did not release their shares in time"
    try:
        owed = open_orders(shares, proposed, lost=lost, context=context, group=manifest.group)
        if node.now() > signed_at + timedelta(seconds=_SEAT_GRACE_SECONDS * (1 + len(lost))) and owed:
            silent = min(owed)
            lost = lost | {silent}
            owed = open_orders(shares, proposed, lost=lost, context=context, group=manifest.group)
            value = _update(node, value, lambda row: dataclasses.replace(row, lost=tuple(sorted(lost))))
    except SeatsLostError as error:
        return str(error)
    order_release(node, value, manifest, sorted(owed))
    return later(node, 2.0)


def order_release(node: Node, value: Round, manifest: Manifest, columns: Sequence[int]) -> None:
    """Send the release order to the given seats; one that is not reached is asked again by :func:`chase_seats`."""
    if manifest.group is None:
        return
    _, _, members = load(node, value.job_id)
    by_id = {member.participant_id: member for member in members}
    body = {"uploads": value.proposed, "statements": list(value.statements), "lost": sorted(value.lost)}
    seats = [by_id[manifest.group.seats[column].participant] for column in columns]
    _each(seats, lambda member: _try(node, member, _path(value, "release"), body))


def _open(
    node: Node, job_id: str, number: int, attempt: int
) -> tuple[Job, TrainingPlan, Round, Manifest, RoundContext]:
    job, plan, _ = load(node, job_id)
    value = node.store.run("round.get", lambda records: records.get(Round, job_id, number, attempt))
    if value is None:
        raise UnknownError("no such round")
    manifest = own_manifest(node, job.manifest)
    return job, plan, value, manifest, manifest.context(round=number, attempt=attempt, model=value.model)


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
    )

    def work(records: Records) -> Round:
        records.add(value)
        return records.get(Round, job.job_id, job.round, job.attempt) or value

    return node.store.run("round.open", work)


def _opening(node: Node, value: Round) -> dict[str, Any]:
    job, _, _ = load(node, value.job_id)
    payload = {
        "job": value.job_id,
        "manifest": own_manifest(node, job.manifest).digest,
        "round": value.round,
        "attempt": value.attempt,
        "kind": value.kind,
        "model": value.model,
        "deadline": value.deadline.isoformat(),
    }
    return node.signer.sign(OPENING_KIND, payload)


def _announce(
    node: Node, value: Round, member: Member, document: Mapping[str, Any], weights: bytes
) -> PeerError | None:
    head = base64.urlsafe_b64encode(canonical_json(document)).decode()
    try:
        call(node, member, "POST", f"/jobs/{value.job_id}/rounds", content=weights, headers={"Orchard-Opening": head})
    except PeerError as error:
        return error
    return None


def _note_failure(node: Node, value: Round, member: Member, error: PeerError) -> None:
    body = {"uploaded": False, "code": error.code, "reason": str(error)}
    receive_notice(node, member.participant_id, value.job_id, value.round, value.attempt, body)


def _fix_set(node: Node, value: Round, proposed: ContributorSet) -> Round:
    elapsed = (node.now() - value.opened_at).total_seconds()

    def change(row: Round) -> Round:
        if row.state is not RoundState.TRAINING:
            return row
        moved = move_round(row, RoundEvent.SET_FIXED)
        return dataclasses.replace(moved, proposed=proposed.to_json(), timing=row.timing | {"trained": elapsed})

    return _update(node, value, change)


def _agree(
    node: Node, job: Job, plan: TrainingPlan, value: Round, manifest: Manifest, context: RoundContext
) -> Later | None:
    if manifest.group is None or value.proposed is None:
        raise UnknownError("no such round")
    _, _, members = load(node, job.job_id)
    by_id = {member.participant_id: member for member in members}
    seats = [by_id[seat.participant] for seat in manifest.group.seats]
    body = {"uploads": value.proposed}
    answers = _each(seats, lambda member: _try(node, member, _path(value, "set"), body))
    statements = [answer for answer in answers if not isinstance(answer, PeerError)]
    try:
        verify_quorum(ContributorSet.from_json(value.proposed), statements, context=context, group=manifest.group)
    except SecureAggregationError as error:
        refusals = [answer for answer in answers if isinstance(answer, PeerError)]
        if any(refusal.final for refusal in refusals):
            abort(node, job, plan, value, f"a seat refused the set: {refusals[0]}")
            return None
        if node.now() > value.deadline + timedelta(seconds=plan.round_seconds):
            abort(node, job, plan, value, f"the seats did not sign the set: {error}")
            return None
        return later(node, _AGAIN_SECONDS)
    _sign_off(node, value, statements, manifest)
    return None


def _sign_off(
    node: Node, value: Round, statements: Sequence[Mapping[str, Any]], manifest: Manifest | None = None
) -> None:
    elapsed = (node.now() - value.opened_at).total_seconds()

    def work(records: Records) -> Round | None:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        if row is None or row.state is not RoundState.AGREEING:
            return None
        moved = dataclasses.replace(
            move_round(row, RoundEvent.SET_SIGNED),
            statements=tuple(dict(statement) for statement in statements),
            timing=row.timing | {"signed": elapsed},
        )
        records.save(moved)
        # The shares ring for this task; the timer chases seats that do not send theirs.
        due = node.now() if manifest is None else node.now() + timedelta(seconds=3)
        records.enqueue("learning.finish_round", round_key(row), due)
        return moved

    signed = node.store.run("round.signed", work)
    if signed is not None and manifest is not None and manifest.group is not None:
        order_release(node, signed, manifest, range(len(manifest.group.seats)))


def _try(node: Node, member: Member, path: str, body: Mapping[str, Any]) -> Mapping[str, Any] | PeerError:
    try:
        return call(node, member, "POST", path, json=body)
    except PeerError as error:
        return error


def _path(value: Round, what: str) -> str:
    return f"/jobs/{value.job_id}/rounds/{value.round}/attempts/{value.attempt}/{what}"


def _notices(node: Node, value: Round) -> list[Notice]:
    return node.store.run(
        "round.notices", lambda records: records.select(Notice, value.job_id, value.round, value.attempt)
    )


def _update(node: Node, value: Round, change: Callable[[Round], Round]) -> Round:
    def work(records: Records) -> Round:
        row = records.lock(Round, value.job_id, value.round, value.attempt)
        if row is None:
            raise UnknownError("no such round")
        changed = change(row)
        records.save(changed)
        return changed

    return node.store.run("round.update", work)


def _each(members: Sequence[Member], work: Callable[[Member], T]) -> list[T]:
    if len(members) <= 1:
        return [work(member) for member in members]
    with ThreadPoolExecutor(max_workers=min(16, len(members))) as pool:
        return list(pool.map(work, members))
