"""The collector has the seats sign one set, orders its release, and gives a silent seat's work to its co-holders."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from learning.attempts import Attempt, abort, change_round, extend, round_key
from learning.errors import PeerError
from learning.jobs import Member
from learning.members import call, call_each
from learning.node import Later, Node, later
from learning.ports import Records
from learning.rounds import Round, RoundEvent, RoundState, SeatShare, move_round
from learning.secagg.collector import open_orders
from learning.secagg.errors import SeatsLostError, SecureAggregationError
from learning.secagg.sets import ContributorSet, verify_quorum
from learning.secagg.shares import ShareHeader, verify_share

_AGAIN_SECONDS = 0.3
# How often a share that is missing is asked for again.
_CHASE_SECONDS = 2.0
_FIRST_CHASE = timedelta(seconds=3)
# How often a seat that signed is asked before its co-holders take its work over: about 20 s. Counting what we asked,
# not what the clock says, spares the seats when it was the collector that stood still.
_PATIENCE = 10


def agree(node: Node, attempt: Attempt) -> Later | None:
    """Have the seats sign the proposed set; with a quorum, order its release."""
    group, row = attempt.manifest.group, attempt.row
    if group is None or row.proposed is None:
        sign_off(node, row, [])
        return None
    answers = call_each(attempt.seats(), lambda member: _ask_to_sign(node, attempt, member))
    statements = [answer for answer in answers if not isinstance(answer, PeerError)]
    try:
        signed = verify_quorum(ContributorSet.from_json(row.proposed), statements, context=attempt.context, group=group)
    except SecureAggregationError as error:
        refusals = [answer for answer in answers if isinstance(answer, PeerError) and answer.final]
        if refusals:
            abort(node, attempt, f"a seat refused the set: {refusals[0]}")
            return None
        limit = row.deadline + timedelta(seconds=attempt.plan.round_seconds)
        if node.now() > limit and extend(node, row, limit) is None:
            abort(node, attempt, f"the seats did not sign the set: {error}")
            return None
        return later(node, _AGAIN_SECONDS)
    # A seat that has not signed may not release; its co-holders begin at once.
    lost = tuple(column for column in range(len(group.seats)) if column not in signed)
    moved = sign_off(node, row, statements, lost)
    if moved is not None:
        columns = [column for column in range(len(group.seats)) if column not in lost]
        order_release(node, dataclasses.replace(attempt, row=moved), columns)
    return None


def sign_off(
    node: Node, row: Round, statements: Sequence[Mapping[str, Any]], lost: tuple[int, ...] = ()
) -> Round | None:
    """Note that the set is final; return the attempt, or None when somebody else was first."""
    now = node.now()

    def work(records: Records) -> Round | None:
        found = records.lock(Round, row.job_id, row.round, row.attempt)
        if found is None or found.state is not RoundState.AGREEING:
            return None
        moved = dataclasses.replace(
            move_round(found, RoundEvent.SET_SIGNED),
            statements=tuple(dict(statement) for statement in statements),
            lost=lost,
            timing=found.timing | {"signed": (now - found.opened_at).total_seconds()},
        )
        records.save(moved)
        # The shares ring for this task; the timer chases seats that do not send theirs.
        records.enqueue("learning.finish_round", round_key(row), now + _FIRST_CHASE if statements else now)
        return moved

    return node.store.run("round.signed", work)


def order_release(node: Node, attempt: Attempt, columns: Sequence[int]) -> None:
    """Send the release order to the given seats; one that is not reached is asked again by :func:`chase_seats`."""
    row, seats = attempt.row, attempt.seats()
    body = {"uploads": row.proposed, "statements": list(row.statements), "lost": sorted(row.lost)}
    call_each([seats[column] for column in columns], lambda member: _ask(node, member, attempt.path("release"), body))


def shares_of(node: Node, attempt: Attempt) -> list[tuple[ShareHeader, Callable[[], bytes]]]:
    """Return the shares that have arrived, verified, each with a function that loads it."""
    row, group = attempt.row, attempt.manifest.group
    if group is None or row.proposed is None:
        return []
    proposed = ContributorSet.from_json(row.proposed)
    stored = node.store.run(
        "round.shares", lambda records: records.select(SeatShare, row.job_id, row.round, row.attempt)
    )
    found: list[tuple[ShareHeader, Callable[[], bytes]]] = []
    for share in stored:
        data = node.blobs.get(share.vector)
        header = verify_share(share.document, data, proposed, context=attempt.context, group=group)
        found.append((header, data.__bytes__))
    return found


def chase_seats(node: Node, attempt: Attempt) -> Later | str:
    """Order (again) what seats still owe; after a grace, give a silent seat's work to its co-holders.

    Returns:
        when to look again, or the reason why the round cannot be finished.
    """
    group, row = attempt.manifest.group, attempt.row
    if group is None or row.proposed is None:
        return "the round has no set"
    limit = row.deadline + timedelta(seconds=attempt.plan.round_seconds)
    if node.now() > limit:
        extended = extend(node, row, limit)
        if extended is None:
            return "the seats did not release their shares in time"
        row = extended
    proposed = ContributorSet.from_json(row.proposed)
    shares = [header for header, _ in shares_of(node, attempt)]
    lost = frozenset(row.lost)
    try:
        owed = open_orders(shares, proposed, lost=lost, context=attempt.context, group=group)
        # Each share that arrives wakes this task, too.
        if owed and row.chased - len(shares) >= _PATIENCE * (1 + len(lost)):
            lost = lost | {min(owed)}
            owed = open_orders(shares, proposed, lost=lost, context=attempt.context, group=group)
    except SeatsLostError as error:
        return str(error)
    gone = tuple(sorted(lost))
    row = change_round(node, row, lambda found: dataclasses.replace(found, lost=gone, chased=found.chased + 1))
    order_release(node, dataclasses.replace(attempt, row=row), sorted(owed))
    return later(node, _CHASE_SECONDS)


def _ask_to_sign(node: Node, attempt: Attempt, member: Member) -> Mapping[str, Any] | PeerError:
    return _ask(node, member, attempt.path("set"), {"uploads": attempt.row.proposed})


def _ask(node: Node, member: Member, path: str, body: Mapping[str, Any]) -> Mapping[str, Any] | PeerError:
    try:
        return call(node, member, "POST", path, json=body)
    except PeerError as error:
        return error
