"""The collector takes what a round brings: notices, shares, plain contributions; and fixes the set when k of n spoke."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from learning.agree import GivenUp, Waiting, drive
from learning.attempts import (
    Attempt,
    abort,
    closing_time,
    extend,
    parse_round_key,
    read_attempt,
    round_key,
)
from learning.errors import ConflictError, NotYetError, RefusedError, UnknownError
from learning.groups import setting_of
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
from learning.secagg.conduct_state import UNSIGNED, GroupRound
from learning.secagg.errors import SecureAggregationError
from learning.secagg.header import verify_header
from learning.secagg.inner import InnerHeader, InnerSet, read_inner_share
from learning.secagg.seat import accept_vector
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader, check_share_bytes, read_share
from learning.timeline import note
from learning.tree import TOP
from policies.canonical import digest

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
        uploads=_uploads(sender, body.get("uploads", {})),
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
    found = read_attempt(node, job_id, number, attempt, TOP)
    tree = found.manifest.tree
    if tree is None or tree.column_of(sender) is None:
        raise UnknownError("no such round")
    _take_share(node, found, sender, TOP, document, vector)


def receive_receipt(
    node: Node, sender: str, job_id: str, number: int, attempt: int, name: str, document: Mapping[str, Any]
) -> None:
    """Take the signed header of a share that a seat has handed up to the group above its own; never the share.

    Raises:
        UnknownError: no such round or group.
        NotYetError: the group's set is not final yet.
        RefusedError: the header is wrong.
        ConflictError: this seat gave another share before.
    """
    found = read_attempt(node, job_id, number, attempt, name)
    tree = found.manifest.tree
    if tree is None or tree.column_of(sender) is None or name not in tree.names or name == TOP:
        raise UnknownError("no such round")
    _take_share(node, found, sender, name, document, None)


def _take_share(
    node: Node, attempt: Attempt, sender: str, name: str, document: Mapping[str, Any], vector: bytes | None
) -> None:
    row, now = attempt.row, node.now()
    if row.state in _OVER:
        return
    value = None if attempt.stored is None else GroupRound.from_json(attempt.stored.value)
    if value is None or value.proposed is None or value.state in UNSIGNED:
        raise NotYetError("the set of this round is not final yet")
    try:
        header = _check_share(attempt, value, document, vector)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if header.seat != sender:
        raise RefusedError("wrong-sender", "the share is another seat's")
    share = SeatShare(
        job_id=row.job_id,
        round=row.round,
        attempt=row.attempt,
        group=name,
        digest=header.digest,
        seat=sender,
        document=dict(document),
        at=now,
        vector=None if vector is None else header.vector,
    )

    def work(records: Records) -> None:
        # Held, so that of two last shares at once one sees the other.
        records.lock(Round, row.job_id, row.round, row.attempt)
        earlier = records.select(SeatShare, row.job_id, row.round, row.attempt, name)
        if any(one.digest == share.digest for one in earlier):
            return
        if any(one.seat == sender and _same_work(one.document, document) for one in earlier):
            raise ConflictError("this seat gave another share of this sum before")
        if vector is not None:
            # Only now: a share that is refused leaves nothing behind.
            node.blobs.put(vector, header.vector)
        records.add(share)
        _ring_at_the_last(records, attempt, name, value, {one.seat for one in (*earlier, share)}, now)

    node.store.run("round.share", work)


def _check_share(
    attempt: Attempt, value: GroupRound, document: Mapping[str, Any], vector: bytes | None
) -> ShareHeader | InnerHeader:
    setting = setting_of(attempt, signing=False)
    group, context = setting.group(value.group, value.replaced), setting.context(value.group)
    header: ShareHeader | InnerHeader
    if isinstance(value.proposed, InnerSet):
        header = read_inner_share(document, value.proposed, context=context, group=group)
    else:
        header = read_share(document, value.proposed or ContributorSet.of({}), context=context, group=group)
    if vector is not None:
        check_share_bytes(vector, header.vector, context=context, sender=header.seat)
    return header


def _same_work(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    names = ("uploads", "children", "lost", "blank")
    return all(one["payload"].get(name) == other["payload"].get(name) for name in names)


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
        vector=header.vector,
    )

    def work(records: Records) -> None:
        if records.add(upload):
            node.blobs.put(vector, header.vector)
            return
        first = records.get(ClearUpload, job_id, number, attempt, header.contributor)
        if first is not None and first.header_digest != header.digest:
            raise ConflictError("another upload was accepted for this attempt")

    node.store.run("round.clear", work)


def close_round(node: Node, key: str) -> Later | None:
    """Task: close the sets when k of n have spoken, have the seats sign them, and order their release."""
    attempt = read_attempt(node, *parse_round_key(key))
    row = attempt.row
    if attempt.job.state is not JobState.RUNNING or row.state not in (RoundState.TRAINING, RoundState.AGREEING):
        return None
    uploads = None
    if row.state is RoundState.TRAINING:
        closed = _closed(node, attempt)
        if not isinstance(closed, dict):
            return closed
        chosen = closed
        row = dataclasses.replace(row, proposed=_proposed(chosen), counted=sum(map(_count, chosen.values())))
        attempt = dataclasses.replace(attempt, row=row)
        if attempt.manifest.tree is None:
            _fix_clear(node, row)
            return None
        uploads = _by_leaf(attempt, chosen)
    outcome = drive(node, attempt, uploads)
    if isinstance(outcome, GivenUp):
        abort(node, attempt, outcome.reason)
    # Once every set is signed, shares ring for the task that adds them up, and its own timer chases them.
    return outcome.again if isinstance(outcome, Waiting) and outcome.signing else None


def _closed(node: Node, attempt: Attempt) -> dict[str, Notice] | Later | None:
    """Return who has uploaded, when no more are waited for; else when to look again, or nothing where it is given up."""
    row = attempt.row
    notices = {notice.participant_id: notice for notice in _notices(node, row)}
    answer = quorum(row, notices, _fewest_providers(attempt), node.now())
    if not answer.ready and answer.reason is None:
        return Later(due_at=row.deadline)
    if len(notices) < len(row.expected) and (extended := extend(node, row, row.deadline)) is not None:
        return Later(due_at=extended.deadline)
    if answer.reason is not None:
        abort(node, attempt, answer.reason)
        return None
    return {name: notices[name] for name in answer.contributors}


def _fewest_providers(attempt: Attempt) -> int:
    """Return how many providers a round needs; where learners contribute, the floor counts those, later."""
    return attempt.plan.min_contributors if attempt.plan.granularity == "provider" else 1


def _count(notice: Notice) -> int:
    return sum(len(uploads) for uploads in notice.uploads.values()) or 1


def _proposed(notices: Mapping[str, Notice]) -> list[list[str]]:
    return [
        [name, digest(notice.uploads) if notice.uploads else notice.header_digest or ""]
        for name, notice in sorted(notices.items())
    ]


def _by_leaf(attempt: Attempt, notices: Mapping[str, Notice]) -> dict[str, dict[str, str]]:
    """Return what was uploaded to each leaf group; a contributor that is not its sender's, or not of that leaf, is not."""
    manifest, found = attempt.manifest, dict[str, dict[str, str]]()
    for owner, notice in notices.items():
        if attempt.plan.granularity == "provider":
            found.setdefault(manifest.leaf_of(owner), {})[owner] = notice.header_digest or ""
            continue
        for leaf, uploads in notice.uploads.items():
            for contributor, header in uploads.items():
                if contributor.partition("#")[0] == owner and manifest.leaf_of(contributor) == leaf:
                    found.setdefault(leaf, {})[contributor] = header
    return found


def _uploads(sender: str, value: object) -> dict[str, dict[str, str]]:
    """Return what a notice says was uploaded where, as far as it can be: the sender's own contributors."""
    if not isinstance(value, Mapping) or not all(isinstance(part, Mapping) for part in value.values()):
        return {}
    return {
        str(leaf): {
            name: header
            for name, header in part.items()
            if isinstance(name, str) and name.startswith(f"{sender}#") and isinstance(header, str)
        }
        for leaf, part in value.items()
    }


def _notices(node: Node, row: Round) -> list[Notice]:
    return node.store.run("round.notices", lambda records: records.select(Notice, row.job_id, row.round, row.attempt))


def _ring_at_the_last(
    records: Records, attempt: Attempt, name: str, value: GroupRound, seats: set[str], now: datetime
) -> None:
    """Look at once when every seat of the group has given a share, or one is made up for; a timer chases the silent."""
    row = attempt.row
    current = records.get(Round, row.job_id, row.round, row.attempt)
    if value.lost or value.blank or len(seats) >= len(attempt.manifest.placement.seats):
        records.enqueue("learning.finish_round", attempt.key, now)
    if name == TOP and current is not None and current.state is RoundState.RELEASING:
        timing = current.timing | {"released": (now - current.opened_at).total_seconds()}
        records.save(dataclasses.replace(current, timing=timing))


def _fix_clear(node: Node, row: Round) -> None:
    """Fix the set of a clear round: the collector holds every contribution, and adds them up."""
    now = node.now()
    elapsed = (now - row.opened_at).total_seconds()

    def work(records: Records) -> None:
        found = records.lock(Round, row.job_id, row.round, row.attempt)
        if found is None or found.state is not RoundState.TRAINING:
            return
        moved = move_round(move_round(found, RoundEvent.SET_FIXED), RoundEvent.SET_SIGNED)
        timing = found.timing | {"trained": elapsed, "signed": elapsed}
        records.save(dataclasses.replace(moved, proposed=row.proposed, counted=row.counted, timing=timing))
        records.enqueue("learning.finish_round", round_key(row), now)

    node.store.run("round.clear", work)
