"""The seat: signs one set a round in each of its groups, and gives out one share of each group's sum.

A leaf's seat sums contributors, an inner group's seat the shares that the seats of its column handed up. A share goes to
the parent's seat of the same column, the top's to the collector; it is kept until the round is over.
"""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from learning.errors import NotYetError, PeerError, RefusedError, RoundOverError, UnknownError
from learning.handing import receive_child_share
from learning.jobs import Participation, ParticipationState
from learning.members import may_pass
from learning.node import Later, Node, later
from learning.ports import Records
from learning.rounds import ChildShare, SeatRound, SeatState
from learning.seats import Place, holdings, place_in
from learning.secagg.context import Group
from learning.secagg.errors import SecureAggregationError, SetError
from learning.secagg.inner import InnerSet, release_inner
from learning.secagg.seat import received, release
from learning.secagg.sets import ContributorSet, sign_set, verify_quorum
from learning.secagg.shares import Share
from learning.tree import TOP
from policies.canonical import canonical_json, digest

_AGAIN_SECONDS = 0.5


def sign(node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Sign the collector's proposal; one set of contributors a round and group, whatever the attempt.

    Returns:
        the signed document; or, in an inner group, ``missing``: the children of which a listed share is not here. With
        ``sign: false`` in the body only the latter, and nothing is signed.

    Raises:
        NotYetError: an upload that the set names has not arrived here.
        RefusedError: another set was signed, or the set is below the floor.
    """
    place, proposed = _asked(node, consumer, job_id, number, attempt, body, look=True)
    held, missing = _held(node, place, proposed)
    if missing or body.get("sign") is False:
        return {"missing": missing}
    signable = proposed.as_set() if isinstance(proposed, InnerSet) else proposed

    def work(records: Records) -> dict[str, Any]:
        # Signatures of one job come one after the other: two sets at once must not both find no earlier one.
        records.lock(Participation, job_id)
        rows = records.select(SeatRound, job_id, number)
        earlier = [row.set_document for row in rows if row.set_document]
        document = sign_set(
            signable, context=place.context, group=place.group, signer=node.signer, held=held, signed=earlier
        )
        row = SeatRound(
            job_id=job_id,
            round=number,
            attempt=attempt,
            group=place.name,
            state=SeatState.SIGNED,
            set_document=document,
        )
        # The set is signed once: the row is written in the transaction that answers.
        if not records.add(row) and place.group.inner:
            _sign_anew(records, row)
        return document

    try:
        return node.store.run("seat.sign", work)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error


def order_release(
    node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]
) -> dict[str, Any]:
    """Take the collector's order to release, once it shows a quorum of signatures on the set; the work comes later.

    Returns:
        ``state``; WAITING, with ``missing``, where this seat replaced another and has not got all seeds yet.

    Raises:
        RefusedError: no quorum, we have not signed this attempt, or the share would leave its column.
    """
    place, proposed = _asked(node, consumer, job_id, number, attempt, body, look=body.get("blank") not in (None, []))
    lost, blank = _columns(body, "lost", place.group), _columns(body, "blank", place.group)
    target = _target(place, body)
    signable = proposed.as_set() if isinstance(proposed, InnerSet) else proposed
    try:
        verify_quorum(signable, list(body.get("statements") or ()), context=place.context, group=place.group)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if place.column in blank and (without := set(signable.contributors) - place.found.boxed):
        return {"state": "WAITING", "missing": [f"seeds of {len(without)} contributors"]}
    order = {
        "set": proposed.to_json(),
        "statements": body["statements"],
        "lost": sorted(lost),
        "blank": sorted(blank),
        "to": target,
        "replaced": body.get("replaced"),
    }
    now = node.now()

    def work(records: Records) -> None:
        row = records.lock(SeatRound, *place.record_key)
        if row is None and place.column in blank:
            # Whoever replaced a seat did not sign; the others' signatures made the set final.
            row = SeatRound(job_id=job_id, round=number, attempt=attempt, group=place.name, state=SeatState.SIGNED)
            records.add(row)
        if row is None:
            raise RefusedError("not-signed", "this seat has not signed a set in this attempt")
        before = row.release_order
        if before is not None and _same_work(before, order):
            if before["to"] == target:
                return
        elif row.state is SeatState.RELEASING:
            # The share under way may have arrived although its answer did not; it is acknowledged before a further one.
            raise NotYetError("an earlier share of this seat is still on its way")
        records.save(dataclasses.replace(row, state=SeatState.RELEASING, release_order=order))
        records.enqueue("learning.release", _key(place), now)

    node.store.run("seat.order", work)
    return {"state": "ACCEPTED"}


def resend(node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> None:
    """Hand the shares that we keep to another seat above us: the one before it is gone.

    Raises:
        RefusedError: we have released nothing, or the share would leave its column.
    """
    place = place_in(
        node,
        job_id,
        number,
        attempt,
        str(body.get("group", TOP)),
        consumer=consumer,
        replaced=body.get("replaced"),
        look=False,
    )
    target, now = _target(place, body), node.now()

    def work(records: Records) -> None:
        row = records.lock(SeatRound, *place.record_key)
        if row is None or row.release_order is None:
            raise RefusedError("not-released", "this seat has released nothing in this attempt")
        order = row.release_order | {"to": target}
        if row.state is SeatState.RELEASING and order == row.release_order:
            return
        shares = tuple(share | {"handed": ""} for share in row.shares)
        records.save(dataclasses.replace(row, state=SeatState.RELEASING, release_order=order, shares=shares))
        records.enqueue("learning.release", _key(place), now)

    node.store.run("seat.resend", work)


def release_share(node: Node, key: str) -> Later | None:
    """Task (queue ``aggregate``): compute our share of an agreed sum, keep it, and hand it up."""
    job_id, number, attempt, name = key.rsplit("|", 3)
    where = (job_id, int(number), int(attempt), name)
    row = node.store.run("seat.get", lambda records: records.get(SeatRound, *where))
    if row is None or row.state is not SeatState.RELEASING or row.release_order is None:
        return None
    order, shares = row.release_order, row.shares
    place = _still_seated(node, where, order)
    if place is None:
        return None
    if not any(_is_of(share, order) for share in shares):
        made = _share(node, place, row, order)
        if made is None:
            # The round went on without our answer being heard, and what we held of it is erased.
            return None
        if place.tree.parent(name) is None:
            if not _send_to_collector(node, place, made.document, bytes(made.vector)):
                return later(node, _AGAIN_SECONDS)
        else:
            shares = _keep(node, place, order, made)
    for share in shares:
        if share["handed"] != order["to"] and not _hand_up(node, place, str(order["to"]), share):
            return later(node, _AGAIN_SECONDS)

    _acknowledge(node, where, order)
    return None


def _still_seated(node: Node, where: tuple[str, int, int, str], order: Mapping[str, Any]) -> Place | None:
    """Return our seat as the order names it; None once the job or the round's epoch is over for us."""
    try:
        place = place_in(node, *where, replaced=order["replaced"])
    except (UnknownError, RoundOverError):
        return None
    return place if place.part.state is ParticipationState.ACTIVE else None


def _acknowledge(node: Node, where: tuple[str, int, int, str], order: Mapping[str, Any]) -> None:
    """Write down that the order's share is where it should be."""

    def work(records: Records) -> None:
        current = records.lock(SeatRound, *where)
        # Whoever did this work twice must not acknowledge an order that came meanwhile.
        if current is not None and current.state is SeatState.RELEASING and current.release_order == order:
            records.save(
                dataclasses.replace(
                    current,
                    state=SeatState.RELEASED,
                    released=tuple(order["lost"]),
                    released_blank=tuple(order["blank"]),
                    shares=tuple(share | {"handed": order["to"]} for share in current.shares),
                )
            )

    node.store.run("seat.released", work)


def _key(place: Place) -> str:
    return "|".join(map(str, place.record_key))


def _asked(
    node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any], *, look: bool
) -> tuple[Place, ContributorSet | InnerSet]:
    name = str(body.get("group", TOP))
    place = place_in(node, job_id, number, attempt, name, consumer=consumer, replaced=body.get("replaced"), look=look)
    return place, _set(place.group, body)


def _held(node: Node, place: Place, proposed: ContributorSet | InnerSet) -> tuple[Mapping[str, str], list[str]]:
    """Return what can be signed, and which children lack a share; uploads that are missing raise ``NotYetError``."""
    if isinstance(proposed, InnerSet):
        shares = node.store.run("seat.children", lambda records: _children(records, place))
        digests = [share.digest for share in shares]
        return proposed.held(place.column, digests), list(proposed.missing(place.column, digests))
    found = place.found
    held = received(found.whole, found.vectors, column=place.column, context=place.context, group=place.group)
    if any(name not in held for name in proposed.contributors):
        raise NotYetError("an upload that the set names has not arrived at this seat")
    return held, []


def _children(records: Records, place: Place) -> list[ChildShare]:
    job_id, number, attempt, name = place.record_key
    below = set(place.tree.children(name))
    return [share for share in records.select(ChildShare, job_id, number, attempt) if share.group in below]


def _sign_anew(records: Records, row: SeatRound) -> None:
    """Let an inner seat sign other shares of the same children; what it released before counts no more."""
    current = records.lock(SeatRound, row.job_id, row.round, row.attempt, row.group)
    if current is not None and current.set_document != row.set_document:
        records.save(row)


def _share(node: Node, place: Place, row: SeatRound, order: Mapping[str, Any]) -> Share | None:
    """Return our share; None where what it is made of is no longer here."""
    if place.group.inner:
        shares = {
            share.digest: share for share in node.store.run("seat.children", lambda records: _children(records, place))
        }
        agreed = InnerSet.from_json(order["set"])
        if not set(agreed.listed(place.column)) <= set(shares):
            return None
        return release_inner(
            agreed,
            order["statements"],
            column=place.column,
            context=place.context,
            group=place.group,
            signer=node.signer,
            vectors=lambda name: node.blobs.get(shares[name].vector),
        )
    proposed = ContributorSet.from_json(order["set"])
    held = holdings(node, place, proposed.contributors)
    if set(held) != set(proposed.contributors):
        return None
    return release(
        proposed,
        order["statements"],
        column=place.column,
        context=place.context,
        group=place.group,
        signer=node.signer,
        lost=frozenset(order["lost"]),
        released=None if row.released is None else frozenset(row.released),
        seeds=lambda name: held[name].seeds(place),
        vectors=lambda name: _vector(held[name].vector),
        blank=frozenset(order["blank"]),
        released_blank=frozenset(row.released_blank),
    )


def _vector(read: Any) -> bytes | memoryview:
    if read is None:
        raise NotYetError("a vector that this seat should have stored has not arrived")
    found: bytes | memoryview = read()
    return found


def _is_of(share: Mapping[str, Any], order: Mapping[str, Any]) -> bool:
    return bool(share["set"] == digest(order["set"]) and all(share[name] == order[name] for name in ("lost", "blank")))


def _same_work(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return all(before[name] == after[name] for name in ("set", "lost", "blank"))


def _keep(node: Node, place: Place, order: Mapping[str, Any], share: Share) -> tuple[dict[str, Any], ...]:
    """Keep a share until the round is over, for a parent's seat that is replaced; return all that are kept."""
    kept = {
        "document": share.document,
        "vector": node.blobs.put(share.vector, share.document["payload"]["vector"]),
        "set": digest(order["set"]),
        "lost": order["lost"],
        "blank": order["blank"],
        "handed": "",
    }

    def work(records: Records) -> tuple[dict[str, Any], ...]:
        current = records.lock(SeatRound, *place.record_key)
        if current is None:
            raise UnknownError("no such round")
        if any(_is_of(one, order) for one in current.shares):
            return current.shares
        # What an inner seat summed before its children's shares changed is of no more use.
        earlier = () if place.group.inner else current.shares
        records.save(dataclasses.replace(current, shares=(*earlier, kept)))
        return (*earlier, kept)

    return node.store.run("seat.keep", work)


def _send_to_collector(node: Node, place: Place, document: Mapping[str, Any], vector: bytes) -> bool:
    return _send(node, place.part.consumer, place.path("shares"), vector, _head(document))


def _hand_up(node: Node, place: Place, target: str, share: Mapping[str, Any]) -> bool:
    """Give a share to the seat above us, and its header to the collector; False where it should be tried again."""
    if target == node.participant_id:
        handed = _hand_to_self(node, place, share)
    else:
        path = place.path(f"groups/{place.name}/shares")
        handed = _send(node, target, path, node.blobs.get(share["vector"]), _head(share["document"]))
    body = {"document": share["document"]}
    try:
        reply = node.peers.call(place.part.consumer, "POST", place.path(f"groups/{place.name}/receipts"), json=body)
    except PeerError:
        return False
    return handed and not may_pass(reply)


def _head(document: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(canonical_json({"document": document})).decode()


def _hand_to_self(node: Node, place: Place, share: Mapping[str, Any]) -> bool:
    job_id, number, attempt, name = place.record_key
    try:
        receive_child_share(node, job_id, number, attempt, name, share["document"], node.blobs.get(share["vector"]))
    except (NotYetError, UnknownError):
        return False
    except RefusedError:
        return True
    return True


def _send(node: Node, target: str, path: str, vector: bytes, head: str) -> bool:
    try:
        reply = node.peers.call(target, "POST", path, content=vector, headers={"Orchard-Share": head})
    except PeerError:
        return False
    return not may_pass(reply)


def _target(place: Place, body: Mapping[str, Any]) -> str | None:
    """Return whom a share goes to: somebody of our column's ring, or the collector from the top alone."""
    target = body.get("to")
    if place.tree.parent(place.name) is None:
        if target is not None:
            raise RefusedError("bad-order", "the top's shares go to the collector")
        return None
    if not isinstance(target, str) or target not in place.tree.columns[place.column]:
        raise RefusedError("bad-order", "a share goes up inside its column")
    return target


def _set(group: Group, body: Mapping[str, Any]) -> ContributorSet | InnerSet:
    try:
        return (
            InnerSet.from_json(body.get("children")) if group.inner else ContributorSet.from_json(body.get("uploads"))
        )
    except SetError as error:
        raise RefusedError(error.code, str(error)) from error


def _columns(body: Mapping[str, Any], name: str, group: Group) -> frozenset[int]:
    found: Sequence[Any] = body.get(name, [])
    if not isinstance(found, list) or not all(type(seat) is int and 0 <= seat < len(group.seats) for seat in found):
        raise RefusedError("bad-order", "the order names seats that do not exist")
    return frozenset(found)
