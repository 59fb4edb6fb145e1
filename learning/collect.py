"""The collector takes what a round brings: notices, shares, plain contributions; and fixes the set when k of n spoke."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from learning.agree import agree
from learning.attempts import (
    Attempt,
    abort,
    change_round,
    closing_time,
    extend,
    parse_round_key,
    read_attempt,
    round_key,
)
from learning.errors import ConflictError, NotYetError, RefusedError, UnknownError
from learning.jobs import JobState
from learning.node import Later, Node
from learning.ports import Records
from learning.rounds import (
    RELEASE_DENIED,
    ClearUpload,
    Notice,
    Round,
    RoundEvent,
    RoundState,
    SeatShare,
    move_round,
    quorum,
)
from learning.secagg.errors import SecureAggregationError
from learning.secagg.header import verify_header
from learning.secagg.seat import accept_vector
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import verify_share
from learning.timeline import note

_LONGEST_TEXT = 300
_OPEN = (RoundState.OPENING, RoundState.TRAINING)
_OVER = (RoundState.DONE, RoundState.ABORTED)


def receive_notice(node: Node, sender: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> None:
    """Take a contributor's word about its step, its first one; the round closes when all have spoken.

    A word that comes when the set is fixed changes nothing any more, unless it forbids the model's release.

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
        **{name: None if value is None else str(value)[:_LONGEST_TEXT] for name, value in fields.items()},
    )

    def work(records: Records) -> None:
        # Held, so that of two last words at once one sees the other.
        row = records.lock(Round, job_id, number, attempt)
        if row is None or sender not in row.expected:
            raise UnknownError("no such round")
        late = row.state not in _OPEN and notice.code != RELEASE_DENIED
        if late or not records.add(notice):
            return
        records.enqueue("learning.close_round", round_key(row), closing_time(records, row, now))
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
        ConflictError: this seat gave another share before.
    """
    found = read_attempt(node, job_id, number, attempt)
    row, group = found.row, found.manifest.group
    if group is None or sender not in {seat.participant for seat in group.seats}:
        raise UnknownError("no such round")
    if row.state in _OVER:
        return
    if row.state is not RoundState.RELEASING or row.proposed is None:
        raise NotYetError("the set of this round is not final yet")
    try:
        header = verify_share(
            document, vector, ContributorSet.from_json(row.proposed), context=found.context, group=group
        )
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if group.seats[header.column].participant != sender:
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
        # Held, so that of two last shares at once one sees the other.
        records.lock(Round, job_id, number, attempt)
        if records.add(share):
            _ring_at_the_last(records, found, now)
            return
        first = records.get(SeatShare, job_id, number, attempt, share.seat, share.number)
        if first is not None and first.document != share.document:
            raise ConflictError("this seat gave another share of this sum before")

    node.store.run("round.share", work)


def receive_clear(
    node: Node, sender: str, job_id: str, number: int, attempt: int, envelope: Mapping[str, Any], vector: bytes
) -> None:
    """Take a plain contribution, in a job whose contracts allow ``clear``.

    Raises:
        UnknownError: no such round, or the job is not clear.
        RefusedError: the header or the vector is wrong.
        ConflictError: this contributor uploaded something else before.
    """
    found = read_attempt(node, job_id, number, attempt)
    document = envelope.get("document")
    if found.manifest.terms.aggregation != "clear" or not isinstance(document, Mapping):
        raise UnknownError("no such round")
    if found.row.state in _OVER:
        return
    try:
        header = verify_header(document, found.context, found.manifest.keys, seeds=0, boxes=0)
        accept_vector(header, vector, found.context)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if header.participant != sender:
        raise RefusedError("wrong-sender", "the header is another contributor's")
    upload = ClearUpload(
        job_id=job_id,
        round=number,
        attempt=attempt,
        participant_id=header.contributor,
        header_digest=header.digest,
        vector=node.blobs.put(vector),
    )

    def work(records: Records) -> None:
        if records.add(upload):
            return
        first = records.get(ClearUpload, job_id, number, attempt, header.contributor)
        if first is not None and first.header_digest != header.digest:
            raise ConflictError("another upload was accepted for this attempt")

    node.store.run("round.clear", work)


def close_round(node: Node, key: str) -> Later | None:
    """Task: close the set when k of n have spoken, have the seats sign it, and order its release."""
    attempt = read_attempt(node, *parse_round_key(key))
    row = attempt.row
    if attempt.job.state is not JobState.RUNNING or row.state not in (RoundState.TRAINING, RoundState.AGREEING):
        return None
    if row.state is RoundState.TRAINING:
        notices = {notice.participant_id: notice for notice in _notices(node, row)}
        answer = quorum(row, notices, attempt.plan.min_contributors, node.now())
        if not answer.ready and answer.reason is None:
            return Later(due_at=row.deadline)
        if len(notices) < len(row.expected) and (extended := extend(node, row, row.deadline)) is not None:
            return Later(due_at=extended.deadline)
        if answer.reason is not None:
            abort(node, attempt, answer.reason)
            return None
        uploads = {name: notices[name].header_digest or "" for name in answer.contributors}
        attempt = dataclasses.replace(attempt, row=_fix_set(node, row, ContributorSet.of(uploads)))
    return agree(node, attempt)


def _ring_at_the_last(records: Records, attempt: Attempt, now: datetime) -> None:
    """Make the sum due when every seat has given a share, or one is made up for; a timer chases the silent."""
    row, group = attempt.row, attempt.manifest.group
    current = records.get(Round, row.job_id, row.round, row.attempt)
    seats = {share.seat for share in records.select(SeatShare, row.job_id, row.round, row.attempt)}
    if group is None or current is None or current.lost or len(seats) == len(group.seats):
        records.enqueue("learning.finish_round", attempt.key, now)
    if current is not None and current.state is RoundState.RELEASING:
        timing = current.timing | {"released": (now - current.opened_at).total_seconds()}
        records.save(dataclasses.replace(current, timing=timing))


def _fix_set(node: Node, row: Round, proposed: ContributorSet) -> Round:
    elapsed = (node.now() - row.opened_at).total_seconds()

    def change(found: Round) -> Round:
        if found.state is not RoundState.TRAINING:
            return found
        moved = move_round(found, RoundEvent.SET_FIXED)
        return dataclasses.replace(moved, proposed=proposed.to_json(), timing=found.timing | {"trained": elapsed})

    return change_round(node, row, change)


def _notices(node: Node, row: Round) -> list[Notice]:
    return node.store.run("round.notices", lambda records: records.select(Notice, row.job_id, row.round, row.attempt))
