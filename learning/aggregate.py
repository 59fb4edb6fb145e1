"""The seat: takes uploads, signs one contributor set a round, and gives the collector one share of its sum."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from learning.errors import NotYetError, PeerError, RefusedError, UnknownError
from learning.jobs import Participation, ParticipationState
from learning.members import may_pass
from learning.node import Later, Node, later
from learning.placing import manifest_of
from learning.ports import Records
from learning.provide import part_of
from learning.rounds import SeatRound, SeatState, SeatUpload, Step
from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import SecureAggregationError, SetError
from learning.secagg.header import verify_header
from learning.secagg.keys import SealingChain, SealingKey, epoch_of
from learning.secagg.manifest import Manifest
from learning.secagg.seat import accept_header, accept_vector, open_seeds, received, release
from learning.secagg.sets import ContributorSet, sign_set, verify_quorum
from learning.secagg.shares import Share
from learning.tree import TOP
from policies.canonical import canonical_json

_AGAIN_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """This seat in one round attempt."""

    part: Participation
    manifest: Manifest
    group: Group
    column: int
    context: RoundContext
    uploads: dict[str, SeatUpload]
    key: SealingKey = dataclasses.field(repr=False)


def receive_upload(
    node: Node, job_id: str, number: int, attempt: int, envelope: Mapping[str, Any], vector: bytes
) -> None:
    """Take a contributor's header, the box sealed to us and, where we carry it, its masked vector.

    Raises:
        NotYetError: the round is not open here yet.
        RefusedError: anything about the upload is wrong; nothing is stored.
    """
    place = _place(node, job_id, number, attempt)
    document, box = envelope.get("document"), envelope.get("box")
    if not isinstance(document, Mapping) or not isinstance(box, str):
        raise RefusedError("bad-upload", "an upload has a header document and a box")
    known = {name: upload.header_digest for name, upload in place.uploads.items()}
    try:
        header = accept_header(
            document,
            base64.b64decode(box, validate=True),
            column=place.column,
            context=place.context,
            group=place.group,
            members=place.manifest.keys,
            key=place.key,
            known=known,
        )
        carried = place.column in place.group.carriers(place.context, header.contributor)
        if carried:
            accept_vector(header, vector, place.context)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    except ValueError as error:
        raise RefusedError("bad-upload", "the box is not base64") from error
    upload = SeatUpload(
        job_id=job_id,
        round=number,
        attempt=attempt,
        participant_id=header.contributor,
        header_digest=header.digest,
        header=dict(document),
        box=box,
        vector=node.blobs.put(vector) if carried else None,
    )

    def work(records: Records) -> None:
        if records.add(upload):
            return
        # Two uploads of one contributor can race past the check above; the row decides.
        first = records.get(SeatUpload, job_id, number, attempt, header.contributor)
        if first is not None and first.header_digest != header.digest:
            raise RefusedError("secagg-duplicate-upload", "another upload was accepted for this attempt")

    node.store.run("seat.upload", work)


def sign(node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Sign the collector's proposal; one set of contributors a round, whatever the attempt.

    Raises:
        NotYetError: an upload that the set names has not arrived here.
        RefusedError: another set was signed, or the set is below the floor.
    """
    place = _place(node, job_id, number, attempt, consumer)
    proposed = _set(body)
    headers = {name: upload.header_digest for name, upload in place.uploads.items()}
    vectors = {name for name, upload in place.uploads.items() if upload.vector is not None}
    held = received(headers, vectors, column=place.column, context=place.context, group=place.group)
    if any(name not in held for name in proposed.contributors):
        raise NotYetError("an upload that the set names has not arrived at this seat")

    def work(records: Records) -> dict[str, Any]:
        # Signatures of one job come one after the other: two sets at once must not both find no earlier one.
        records.lock(Participation, job_id)
        earlier = [row.set_document for row in records.select(SeatRound, job_id, number) if row.set_document]
        document = sign_set(
            proposed, context=place.context, group=place.group, signer=node.signer, held=held, signed=earlier
        )
        row = SeatRound(job_id=job_id, round=number, attempt=attempt, state=SeatState.SIGNED, set_document=document)
        # The set is signed once: the row is written in the transaction that answers.
        records.add(row)
        return document

    try:
        return node.store.run("seat.sign", work)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error


def order_release(node: Node, consumer: str, job_id: str, number: int, attempt: int, body: Mapping[str, Any]) -> None:
    """Take the collector's order to release, once it shows a quorum of signatures on the set; the work comes later.

    Raises:
        RefusedError: no quorum, or we have not signed this attempt.
    """
    place = _place(node, job_id, number, attempt, consumer)
    lost = _lost(body, place.group)
    try:
        verify_quorum(_set(body), list(body.get("statements") or ()), context=place.context, group=place.group)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    order = {"uploads": body["uploads"], "statements": body["statements"], "lost": sorted(lost)}
    now = node.now()

    def work(records: Records) -> None:
        row = records.lock(SeatRound, job_id, number, attempt)
        if row is None:
            raise RefusedError("not-signed", "this seat has not signed a set in this attempt")
        if row.release_order == order:
            return
        if row.state is SeatState.RELEASING:
            # The share under way may have arrived although its answer did not; it is acknowledged before a further one.
            raise NotYetError("an earlier share of this seat is still on its way")
        records.save(dataclasses.replace(row, state=SeatState.RELEASING, release_order=order))
        records.enqueue("learning.release", f"{job_id}|{number}|{attempt}", now)

    node.store.run("seat.order", work)


def release_share(node: Node, key: str) -> Later | None:
    """Task (queue ``aggregate``): compute our share of the agreed sum and hand it to the collector."""
    job_id, number, attempt = key.rsplit("|", 2)
    row = node.store.run("seat.get", lambda records: records.get(SeatRound, job_id, int(number), int(attempt)))
    if row is None or row.state is not SeatState.RELEASING or row.release_order is None:
        return None
    if part_of(node, job_id).state is not ParticipationState.ACTIVE:
        return None
    place, order = _place(node, job_id, int(number), int(attempt)), row.release_order
    if any(name not in place.uploads for name in _set(order).contributors):
        # The round went on without our answer being heard, and what we held of it is erased.
        return None
    if not _hand_over(node, place, row, _share(node, place, row, order)):
        return later(node, _AGAIN_SECONDS)

    def work(records: Records) -> None:
        current = records.lock(SeatRound, job_id, int(number), int(attempt))
        # Whoever did this work twice must not acknowledge an order that came meanwhile.
        if current is not None and current.state is SeatState.RELEASING and current.release_order == order:
            records.save(dataclasses.replace(current, state=SeatState.RELEASED, released=tuple(order["lost"])))

    node.store.run("seat.released", work)
    return None


def _share(node: Node, place: _Place, row: SeatRound, order: Mapping[str, Any]) -> Share:
    return release(
        _set(order),
        order["statements"],
        column=place.column,
        context=place.context,
        group=place.group,
        signer=node.signer,
        lost=frozenset(order["lost"]),
        released=None if row.released is None else frozenset(row.released),
        seeds=lambda name: _seeds(place, name),
        vectors=lambda name: node.blobs.get(place.uploads[name].vector or ""),
    )


def _hand_over(node: Node, place: _Place, row: SeatRound, share: Share) -> bool:
    """Give the collector a share; False where it should be tried again."""
    head = base64.urlsafe_b64encode(canonical_json({"document": share.document})).decode()
    path = f"/jobs/{row.job_id}/rounds/{row.round}/attempts/{row.attempt}/shares"
    try:
        reply = node.peers.call(
            place.part.consumer, "POST", path, content=bytes(share.vector), headers={"Orchard-Share": head}
        )
    except PeerError:
        return False
    return not may_pass(reply)


def _place(node: Node, job_id: str, number: int, attempt: int, consumer: str | None = None) -> _Place:
    part = part_of(node, job_id, consumer)
    if part.manifest is None:
        raise NotYetError("the job's manifest is not accepted here yet")
    manifest = manifest_of(node, part.manifest, part)
    column = manifest.group.seat_of(node.participant_id) if manifest.group else None
    if manifest.group is None or column is None or not part.sealing_key:
        raise UnknownError("no such job")

    def work(records: Records) -> tuple[Step | None, list[SeatUpload]]:
        return records.get(Step, job_id, number, attempt), records.select(SeatUpload, job_id, number, attempt)

    step, uploads = node.store.run("seat.place", work)
    if step is None:
        raise NotYetError("this round is not open here yet")
    keys = (part.approval or {})["payload"]["hpke_public"]
    epoch = epoch_of(number, manifest.terms.rounds, len(keys))
    return _Place(
        part=part,
        manifest=manifest,
        group=manifest.group_of(TOP, round=number),
        column=column,
        context=manifest.context(round=number, attempt=attempt, model=step.model),
        uploads={upload.participant_id: upload for upload in uploads},
        key=SealingChain.from_text(part.sealing_key).at(epoch).key,
    )


def _seeds(place: _Place, name: str) -> tuple[bytes, ...]:
    upload, group = place.uploads[name], place.group
    header = verify_header(
        upload.header, place.context, place.manifest.keys, seeds=len(group.table), boxes=len(group.seats)
    )
    box = base64.b64decode(upload.box)
    return open_seeds(header, box, column=place.column, context=place.context, group=group, key=place.key)


def _set(body: Mapping[str, Any]) -> ContributorSet:
    try:
        return ContributorSet.from_json(body.get("uploads"))
    except SetError as error:
        raise RefusedError(error.code, str(error)) from error


def _lost(body: Mapping[str, Any], group: Group) -> frozenset[int]:
    lost = body.get("lost", [])
    if not isinstance(lost, list) or not all(type(seat) is int and 0 <= seat < len(group.seats) for seat in lost):
        raise RefusedError("bad-order", "the order names seats that do not exist")
    return frozenset(lost)
