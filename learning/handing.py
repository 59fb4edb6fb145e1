"""What passes between seats of one column, and from providers to a seat that replaced another."""

import base64
from collections.abc import Mapping
from typing import Any

from learning.errors import NotYetError, PeerError, RefusedError, UnknownError
from learning.jobs import Participation, ParticipationState
from learning.members import good_answer
from learning.node import Node
from learning.packages import loads_of, opened_replaced
from learning.parcels import MEDIA_TYPE, Entry, encode
from learning.placing import manifest_of
from learning.ports import Records
from learning.provide import part_of
from learning.rounds import ChildShare, Step
from learning.seats import place_in
from learning.secagg.contributor import reseal
from learning.secagg.errors import SecureAggregationError
from learning.secagg.inner import accept_child_share
from learning.secagg.sets import ContributorSet, verify_quorum
from learning.tree import parse_replaced
from learning.uploads import receive_parcel

# Shares that one seat may have kept here, of one group in one attempt. An honest one gives one, and a further one for
# each seat lost or replaced meanwhile: 13 at most with seven seats, and an inner one as many again for new lists.
MOST_SHARES = 32


def receive_child_share(
    node: Node, job_id: str, number: int, attempt: int, child: str, document: Mapping[str, Any], vector: bytes
) -> None:
    """Take a share that the seat of a child group hands up to us, who sit above it in its column.

    Raises:
        NotYetError: the round is not open here yet.
        UnknownError: we are not of that column.
        RefusedError: the share is wrong, or one too many of its seat; nothing is stored.
    """
    part = part_of(node, job_id)
    if part.manifest is None:
        raise NotYetError("the job's manifest is not accepted here yet")
    manifest = manifest_of(node, part.manifest, part)
    step = node.store.run("seat.place", lambda records: records.get(Step, job_id, number, attempt))
    if step is None:
        raise NotYetError("this round is not open here yet")
    tree = manifest.tree
    column = None if tree is None else tree.column_of(node.participant_id)
    if tree is None or column is None or child not in tree.names or tree.parent(child) is None:
        raise UnknownError("no such seat")
    replaced = opened_replaced(step, manifest).get(child, {})
    context = manifest.context(round=number, attempt=attempt, model=step.model, group=child, replaced=replaced)
    ring = {name: manifest.keys[name] for name in tree.columns[column]}
    try:
        share = accept_child_share(document, vector, column=column, context=context, ring=ring)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    row = ChildShare(
        job_id=job_id,
        round=number,
        attempt=attempt,
        group=child,
        digest=share.digest,
        seat=share.seat,
        document=dict(document),
        vector=share.vector,
    )

    def work(records: Records) -> None:
        # Shares of one job come one after the other: many at once must not all find room.
        records.lock(Participation, job_id)
        kept = records.select(ChildShare, job_id, number, attempt, child)
        known = any(one.digest == share.digest for one in kept)
        if not known and sum(one.seat == share.seat for one in kept) >= MOST_SHARES:
            raise RefusedError("too-many-shares", f"a seat hands up at most {MOST_SHARES} shares of a group an attempt")
        node.blobs.put(vector, share.vector)
        records.add(row)

    node.store.run("seat.child", work)


def reseal_to(node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> None:
    """Seal the seeds of our uploads in a leaf group to the seat that replaced another, and hand them to it.

    Raises:
        NotYetError: the new seat does not answer just now.
        RefusedError: not the next of the column's ring, a set that no quorum has signed, or no upload of ours in it.
    """
    part = part_of(node, job_id, consumer)
    manifest = manifest_of(node, part.manifest, part)
    step = node.store.run("step.get", lambda records: records.get(Step, job_id, number, attempt))
    if manifest.tree is None or step is None or part.state is not ParticipationState.ACTIVE:
        raise UnknownError("no such round")
    leaf = str(body.get("group"))
    load = next((load for load in loads_of(node, manifest, step) if load.leaf == leaf), None) if step.package else None
    column = body.get("column")
    try:
        replaced = parse_replaced({leaf: body.get("replaced")}, manifest.tree)[leaf]
        opened = opened_replaced(step, manifest).get(leaf, {})
        group = manifest.group_of(leaf, round=number, replaced=opened, now=replaced)
        agreed = ContributorSet.from_json(body.get("uploads"))
        if load is not None:
            verify_quorum(agreed, list(body.get("statements") or ()), context=load.context, group=group)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    if load is None or type(column) is not int or replaced.get(column, 0) <= opened.get(column, 0):
        raise RefusedError("bad-reseal", "this seat was not replaced in this round, or nothing of ours is in its group")
    entries = []
    names = set(agreed.contributors)
    for upload in load.uploads:
        if upload.contributor not in names:
            continue
        seeds = [base64.b64decode(seed) for seed in upload.seeds]
        document, box = reseal(
            seeds, upload.document, column=column, context=load.context, group=group, signer=node.signer
        )
        entries.append(Entry(document=upload.document, box=base64.b64encode(box).decode(), reseal=document))
    if entries:
        _hand_reseals(node, step, leaf, group.seats[column].participant, dict(body), entries)


def _hand_reseals(node: Node, step: Step, leaf: str, seat: str, body: dict[str, Any], entries: list[Entry]) -> None:
    data = encode(entries)
    if seat == node.participant_id:
        receive_reseals(node, step.job_id, step.round, step.attempt, leaf, body.get("replaced"), data)
        return
    path = f"/jobs/{step.job_id}/rounds/{step.round}/attempts/{step.attempt}/reseals"
    head = ",".join(f"{column}={times}" for column, times in sorted((body.get("replaced") or {}).items()))
    headers = {"content-type": MEDIA_TYPE, "Orchard-Group": leaf, "Orchard-Replaced": head}
    try:
        good_answer(node, seat, node.peers.call(seat, "POST", path, content=data, headers=headers))
    except PeerError as error:
        if error.final:
            raise RefusedError(error.code, str(error)) from error
        raise NotYetError(f"the new seat does not answer: {error}") from error


def receive_reseals(
    node: Node, job_id: str, number: int, attempt: int, leaf: str, replaced: object, data: bytes
) -> dict[str, dict[str, str]]:
    """Take seeds that a provider sealed again, to us who replaced a seat; return what was refused and why.

    Raises:
        RefusedError: we replaced nobody there, or the body is wrong.
    """
    place = place_in(node, job_id, number, attempt, leaf, replaced=replaced)
    if place.group.voice_of(node.participant_id) == place.column:
        raise RefusedError("not-replaced", "this seat was there when the round opened")
    _, refused = receive_parcel(node, node.participant_id, job_id, number, attempt, leaf, data, place=place)
    return refused
