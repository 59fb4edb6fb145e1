"""A seat's part in a sketch challenge: its word about what the other seats' shares are made of, and its own check.

Answers about a column's share go to whoever holds that share anyway: the collector for the top's, the seat above for
any other group's. So nobody learns from them about a group what it could not learn before.
"""

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from learning.errors import NotYetError, PeerError, RefusedError, RoundOverError, UnknownError
from learning.jobs import Participation
from learning.members import good_answer
from learning.node import Later, Node, later
from learning.packages import group_context
from learning.placing import manifest_of
from learning.ports import Records
from learning.provide import part_of
from learning.rounds import ChildShare, SeatRound, SeatState, SketchAnswers, Step
from learning.seats import Held, Place, holdings, place_in
from learning.secagg.judging import Challenge, Court, Finding, Judgement, judge
from learning.secagg.manifest import Manifest
from learning.secagg.packing import RingVector
from learning.secagg.sets import ContributorSet
from learning.secagg.sketch import parts_of, sign_answer, sketch_of_masks, sketch_of_vectors
from learning.tree import TOP
from policies.canonical import canonical_json, sha256_hex

_AGAIN_SECONDS = 0.5
_HEX_DIGITS, _HEX = 64, frozenset("0123456789abcdef")
# How long a share is held in question while other seats have not answered.
_PATIENCE = timedelta(seconds=20)


def parse_challenge(body: Mapping[str, Any], seats: int) -> Challenge:
    """Return the challenge in a body.

    Raises:
        RefusedError: not one share header's digest for each of ``seats`` seats, or no nonce.
    """
    shares, nonce = body.get("shares"), body.get("nonce")
    if not isinstance(shares, list) or len(shares) != seats or not all(map(_is_digest, (*shares, nonce))):
        raise RefusedError("bad-challenge", "a challenge names one share of every seat, and a nonce of 32 bytes")
    return Challenge(shares=tuple(sorted(shares)), nonce=str(nonce))


def take_challenge(
    node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]
) -> dict[str, str]:
    """Take the collector's challenge to a leaf group's seats, one coin an attempt; the work comes later.

    Raises:
        NotYetError: our share is still on its way.
        RefusedError: a second coin, an inner group, nothing released, or somebody who does not hold the shares.
    """
    name = str(body.get("group", TOP))
    place = place_in(node, job_id, number, attempt, name, consumer=consumer, look=False)
    if place.group.inner:
        raise RefusedError("bad-challenge", "sketches are of a leaf's shares")
    challenge = parse_challenge(body, len(place.group.seats))
    asked = {"shares": list(challenge.shares), "nonce": challenge.nonce, "holders": _holders(place, body)}

    def work(records: Records) -> None:
        row = records.lock(SeatRound, *place.record_key)
        if row is None or row.release_order is None:
            raise RefusedError("not-released", "this seat has released nothing in this attempt")
        if row.state is not SeatState.RELEASED:
            raise NotYetError("the share of this seat is still on its way")
        if row.challenge is not None:
            if row.challenge != asked:
                # Each coin shows further functionals of the same sums.
                raise RefusedError("second-challenge", "this seat has answered under another coin in this attempt")
            return
        records.save(dataclasses.replace(row, challenge=asked))
        records.enqueue("learning.answer_challenge", "|".join(map(str, place.record_key)), node.now())

    node.store.run("seat.challenge", work)
    return {"state": "ACCEPTED"}


def answer_challenge(node: Node, key: str) -> Later | None:
    """Task (queue ``aggregate``): sketch what we hold of the other seats' shares, and tell whoever has those."""
    job_id, number, attempt, name = key.rsplit("|", 3)
    where = (job_id, int(number), int(attempt), name)
    row = node.store.run("seat.get", lambda records: records.get(SeatRound, *where))
    if row is None or row.challenge is None or row.release_order is None:
        return None
    try:
        place = place_in(node, *where)
    except (UnknownError, RoundOverError):
        return None
    proposed = ContributorSet.from_json(row.release_order["set"])
    held = holdings(node, place, proposed.contributors)
    if set(held) != set(proposed.contributors):
        # The round went on, and what we held of it is erased.
        return None
    asked = row.challenge
    challenge = Challenge(shares=tuple(asked["shares"]), nonce=asked["nonce"])
    answers = _answers(node, place, proposed, held, challenge)
    pending = False
    for holder in sorted(set(asked["holders"].values())):
        columns = {c: answers[int(c)] for c, who in asked["holders"].items() if who == holder and int(c) in answers}
        body = {"shares": list(challenge.shares), "nonce": challenge.nonce, "answers": columns}
        if columns and not _tell(node, place, holder, body):
            pending = True
    return later(node, _AGAIN_SECONDS) if pending else None


def receive_answers(
    node: Node, sender: str, job_id: str, number: int, attempt: int, name: str, body: Mapping[str, Any]
) -> None:
    """Keep a seat's answers about the share that its group's seat in our column handed up to us.

    Raises:
        UnknownError: we hold no share of that group, or the sender has no seat in it, or the one that made the share.
        RefusedError: the answers are malformed.
    """
    place = _above(node, job_id, number, attempt, name)
    court_group = group_context(place.manifest, place.step, name)[0]
    # The word of whoever is in question must not fill a witness's place.
    if court_group.seat_of(sender) in (None, place.column):
        raise UnknownError("no such seat")
    row, data = answers_row(node, sender, (job_id, number, attempt, name), body, len(court_group.seats))

    def work(records: Records) -> None:
        if not records.add(row):
            return
        # Only now: answers that come a second time leave nothing behind.
        node.blobs.put(data, row.blob)
        have = len(records.select(SketchAnswers, job_id, number, attempt, name))
        all_others = have >= len(court_group.seats) - 1
        due = node.now() if all_others else node.now() + _PATIENCE
        records.enqueue("learning.check_share", f"{job_id}|{number}|{attempt}|{name}", due)

    node.store.run("seat.answers", work)


def answers_row(
    node: Node, sender: str, where: tuple[str, int, int, str], body: Mapping[str, Any], seats: int
) -> tuple[SketchAnswers, bytes]:
    """Return the record of a seat's answers, and the bytes of its blob, which is not stored yet.

    Raises:
        RefusedError: they are malformed.
    """
    challenge, answers = parse_challenge(body, seats), body.get("answers")
    if not isinstance(answers, Mapping) or not all(isinstance(found, list) for found in answers.values()):
        raise RefusedError("bad-answers", "answers are signed sketches by column")
    job_id, number, attempt, name = where
    data = canonical_json(dict(answers))
    row = SketchAnswers(
        job_id=job_id,
        round=number,
        attempt=attempt,
        group=name,
        participant_id=sender,
        at=node.now(),
        shares=challenge.shares,
        nonce=challenge.nonce,
        blob=sha256_hex(data),
    )
    return row, data


def answers_about(
    node: Node, rows: Sequence[SketchAnswers], challenge: Challenge, column: int
) -> Iterator[Mapping[str, Any]]:
    """Yield the signed sketches about one column's share that were answered to this challenge."""
    for row in rows:
        if (row.shares, row.nonce) == (challenge.shares, challenge.nonce):
            found = json.loads(node.blobs.get(row.blob)).get(str(column), [])
            yield from (document for document in found if isinstance(document, Mapping))


def check_share(node: Node, key: str) -> Later | None:
    """Task (queue ``aggregate``): judge the share that we were handed, and tell the collector what we found."""
    job_id, number, attempt, name = key.rsplit("|", 3)
    where = (job_id, int(number), int(attempt), name)
    try:
        place = _above(node, *where)
    except (UnknownError, RoundOverError):
        return None
    rows, shares = node.store.run(
        "seat.question",
        lambda records: (records.select(SketchAnswers, *where), records.select(ChildShare, *where)),
    )
    group, context = group_context(place.manifest, place.step, name)
    if len(rows) < len(group.seats) - 1 and rows and node.now() < rows[0].at + _PATIENCE:
        return Later(due_at=rows[0].at + _PATIENCE)
    # One seat may name another coin than the collector; the most go by the collector's.
    named = Counter((row.shares, row.nonce) for row in rows).most_common(1)
    if not named:
        return None
    challenge = Challenge(shares=named[0][0][0], nonce=named[0][0][1])
    share = next((share for share in shares if share.digest in challenge.shares), None)
    if share is None:
        judgement = Judgement(finding=Finding.OPEN, reason="the share in question is not here")
    else:
        court = Court(
            manifest=place.part.manifest or {},
            collector_key=place.part.consumer_key,
            beacon=place.manifest.beacon,
            keys=place.manifest.keys,
            context=context,
            group=group,
            challenge=challenge,
        )
        told = answers_about(node, rows, challenge, place.column)
        judgement = judge(place.column, share.document, node.blobs.get(share.vector), told, court)
    return None if _report(node, place, name, judgement) else later(node, _AGAIN_SECONDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Above:
    """Our place in the column above a group: who hands its shares up to, as the round was opened."""

    part: Participation
    manifest: Manifest
    step: Step
    column: int

    def path(self, what: str) -> str:
        """Return the path below ``/learning`` of something about this attempt."""
        return f"/jobs/{self.step.job_id}/rounds/{self.step.round}/attempts/{self.step.attempt}/{what}"


def _above(node: Node, job_id: str, number: int, attempt: int, name: str) -> _Above:
    part = part_of(node, job_id)
    manifest = manifest_of(node, part.manifest, part)
    step = node.store.run("seat.place", lambda records: records.get(Step, job_id, number, attempt))
    tree = manifest.tree
    column = None if tree is None else tree.column_of(node.participant_id)
    if step is None or tree is None or column is None or name not in tree.names or tree.parent(name) is None:
        raise UnknownError("no such seat")
    return _Above(part=part, manifest=manifest, step=step, column=column)


def _holders(place: Place, body: Mapping[str, Any]) -> dict[str, str]:
    """Return who holds which column's share: the collector those of the top, else somebody of the column above."""
    if place.tree.parent(place.name) is None:
        return {str(column): place.part.consumer for column in range(len(place.group.seats))}
    found = body.get("holders")
    columns = place.tree.columns
    if not isinstance(found, Mapping) or any(
        not str(column).isdecimal() or int(column) >= len(columns) or holder not in columns[int(column)]
        for column, holder in found.items()
    ):
        raise RefusedError("bad-challenge", "answers about a column's share stay in that column")
    return {str(column): str(holder) for column, holder in found.items()}


def _answers(
    node: Node, place: Place, proposed: ContributorSet, held: Mapping[str, Held], challenge: Challenge
) -> dict[int, list[dict[str, Any]]]:
    """Return our signed sketches of every part that we hold of the other columns' shares."""
    context, group = place.context, place.group
    coin, names = challenge.coin(context, place.manifest.beacon), proposed.contributors
    own = group.table.held_by(place.column)
    seeds = {name: held[name].seeds(place) for name in names}
    found: dict[int, list[dict[str, Any]]] = {}
    for column in range(len(group.seats)):
        if column == place.column:
            continue
        for part in parts_of(column, group):
            kind, _, index = part.partition(" ")
            values: RingVector | None = None
            if kind == "mask" and int(index) in own:
                mine = {name: seeds[name][own.index(int(index))] for name in names}
                values = sketch_of_masks(int(index), names, mine, context=context, coin=coin)
            elif kind == "vectors":
                carried = [name for name in names if group.carriers(context, name)[0] == column]
                vectors = [held[name].vector for name in carried if place.column in group.carriers(context, name)]
                if len(vectors) == len(carried) and None not in vectors:
                    # Who stores other bytes than were signed says nothing about them.
                    with contextlib.suppress(NotYetError):
                        values = sketch_of_vectors((read() for read in vectors if read), context=context, coin=coin)
            if values is not None:
                document = sign_answer(node.signer, proposed, part, values, context=context, coin=coin)
                found.setdefault(column, []).append(document)
    return found


def _tell(node: Node, place: Place, holder: str, body: Mapping[str, Any]) -> bool:
    """Give answers to whoever holds the shares; False where it should be tried again."""
    if holder == node.participant_id:
        job_id, number, attempt, name = place.record_key
        try:
            receive_answers(node, holder, job_id, number, attempt, name, body)
        except NotYetError:
            return False
        return True
    try:
        good_answer(
            node, holder, node.peers.call(holder, "POST", place.path(f"groups/{place.name}/sketches"), json=body)
        )
    except PeerError as error:
        return error.final
    return True


def _report(node: Node, place: _Above, name: str, judgement: Judgement) -> bool:
    """Tell the collector what we found; False where it should be tried again."""
    body = {
        "column": place.column,
        "finding": judgement.finding.value,
        "reason": judgement.reason,
        "evidence": judgement.evidence,
    }
    consumer = place.part.consumer
    try:
        good_answer(node, consumer, node.peers.call(consumer, "POST", place.path(f"groups/{name}/findings"), json=body))
    except PeerError as error:
        return error.final
    return True


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == _HEX_DIGITS and set(value) <= _HEX
