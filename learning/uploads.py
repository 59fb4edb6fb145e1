"""A seat takes uploads: header, box, and where it carries it the masked vector, which its first carrier copies on.

A contributor's vector leaves it once. Whoever takes it first hands header, box and vector to the other seats that store
it; a seat that cannot be reached just then gets the vector later, and its box from the contributor.
"""

import base64
import binascii
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from learning.errors import NotYetError, PeerError, RefusedError, RoundOverError, UnknownError
from learning.members import good_answer
from learning.node import Later, Node, later
from learning.parcels import MEDIA_TYPE, Entry, decode, encode
from learning.ports import Records
from learning.rounds import SeatParcel, SeatUpload
from learning.seats import Held, Place, checked_at_once, holdings, place_in
from learning.secagg.errors import DuplicateUploadError, SecureAggregationError
from learning.secagg.header import UploadHeader, verify_header
from learning.secagg.reseals import accept_reseal
from learning.secagg.seat import accept_copy, accept_vector, keep_seeds, open_seeds
from learning.tree import TOP
from policies.canonical import canonical_json

_AGAIN_SECONDS = 1.0
# Parcels of one provider for one group that a seat stores: its own, copies by every column, and again after a failure.
_MOST_PARCELS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Accepted:
    """An entry that is right, its box opened: ``kept`` is what is stored instead of it."""

    entry: Entry
    header: UploadHeader
    kept: str | None = dataclasses.field(repr=False)


def receive_upload(
    node: Node, job_id: str, number: int, attempt: int, envelope: Mapping[str, Any], vector: bytes
) -> list[int]:
    """Take one contributor's upload; return the columns that we have handed copies to.

    Raises:
        NotYetError: the round is not open here yet.
        RefusedError: anything about the upload is wrong; nothing is stored.
    """
    document, box = envelope.get("document"), envelope.get("box")
    if not isinstance(document, Mapping) or not isinstance(box, str | None):
        raise RefusedError("bad-upload", "an upload has a header document and a box")
    copies = envelope.get("copies", {})
    if not isinstance(copies, Mapping) or not all(isinstance(one, str) for pair in copies.items() for one in pair):
        raise RefusedError("bad-upload", "copies are boxes by column")
    entry = Entry(document=document, box=box, vector=vector or None, copies=copies)
    place = place_in(node, job_id, number, attempt, _leaf(entry))
    try:
        accepted = _accept(place, entry, place.found.headers)
    except SecureAggregationError as error:
        raise RefusedError(error.code, str(error)) from error
    _store_one(node, place, accepted)
    return _copy(node, place, [accepted])


def receive_parcel(
    node: Node,
    sender: str,
    job_id: str,
    number: int,
    attempt: int,
    leaf: str,
    data: bytes,
    *,
    place: Place | None = None,
) -> tuple[list[int], dict[str, dict[str, str]]]:
    """Take a provider's uploads for one leaf group; return the columns copied to, and what was refused and why.

    Raises:
        NotYetError: the round is not open here yet.
        RefusedError: the body as a whole is wrong; nothing is stored.
    """
    place = place or place_in(node, job_id, number, attempt, leaf)
    entries = decode(data, place.context.vector_bytes)
    known, accepted, refused = dict(place.found.headers), [], {}
    owners = {entry.contributor.partition("#")[0] for entry in entries}
    if len(owners) != 1:
        raise RefusedError("bad-upload", f"a body holds one provider's uploads; {sender} sent those of {len(owners)}")
    for entry in entries:
        try:
            one = _accept(place, entry, known)
        except SecureAggregationError as error:
            refused[entry.contributor] = {"code": error.code, "detail": str(error)}
            continue
        known[one.header.contributor] = one.header.digest
        accepted.append(one)
    new = [one for one in accepted if _is_new(place, one)]
    if new:
        _store_many(node, place, owners.pop(), new)
    return _copy(node, place, accepted), refused


def copy_on(node: Node, key: str) -> Later | None:
    """Task: hand the vectors that we took first to the seats that store copies, until they have them."""
    job_id, number, attempt, leaf = key.rsplit("|", 3)
    try:
        place = place_in(node, job_id, int(number), int(attempt), leaf)
    except (UnknownError, NotYetError, RoundOverError):
        return None
    held = {name: one for name, one in holdings(node, place, place.found.vectors).items() if one.first}
    if node.now() >= place.step.deadline or not held:
        return None
    again = False
    for column in range(len(place.group.seats)):
        if column == place.column:
            continue
        items = [_bare(one) for name, one in held.items() if column in place.group.carriers(place.context, name)]
        again |= bool(items) and not _hand(node, place, column, items)
    return later(node, _AGAIN_SECONDS) if again else None


def _leaf(entry: Entry) -> str:
    return entry.group or TOP


def _accept(place: Place, entry: Entry, known: Mapping[str, str]) -> _Accepted:
    """Check one entry: its signature and place, its box and seeds, its vector.

    Raises:
        SecureAggregationError: what is wrong.
        RefusedError: a box that is not base64, or nothing but a header.
    """
    group, context = place.group, place.context
    header = verify_header(entry.document, context, place.manifest.keys, seeds=len(group.table), boxes=len(group.seats))
    if place.manifest.leaf_of(header.contributor) != place.name:
        raise RefusedError("wrong-group", "this contributor belongs to another leaf group")
    if known.get(header.contributor, header.digest) != header.digest:
        raise DuplicateUploadError("sent a second upload for this attempt", sender=header.contributor)
    kept = resealed = None
    if entry.box is not None:
        if entry.reseal is not None:
            resealed = accept_reseal(
                entry.reseal,
                entry.document,
                column=place.column,
                context=context,
                group=group,
                members=place.manifest.keys,
            ).box
        seeds = open_seeds(
            header,
            _bytes(entry.box),
            column=place.column,
            context=context,
            group=group,
            key=place.key,
            resealed=resealed,
        )
        kept = base64.b64encode(keep_seeds(seeds, header, column=place.column, key=place.key)).decode()
    carries = place.column in group.carriers(context, header.contributor)
    if carries and entry.vector is not None:
        check = accept_vector if checked_at_once(place, header.contributor, first=bool(entry.copies)) else accept_copy
        check(header, entry.vector, context)
        return _Accepted(entry=entry, header=header, kept=kept)
    if entry.box is None:
        raise RefusedError("bad-upload", "an upload without its box is a copy of a vector that this seat stores")
    return _Accepted(entry=dataclasses.replace(entry, vector=None), header=header, kept=kept)


def _is_new(place: Place, one: _Accepted) -> bool:
    """Say whether an entry brings what is not here yet: what is sealed or copied again looks different each time."""
    name, found = one.header.contributor, place.found
    box = one.entry.box is not None and name not in found.boxed
    return box or (one.entry.vector is not None and name not in found.vectors)


def _bytes(box: str) -> bytes:
    try:
        return base64.b64decode(box, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError("bad-upload", "the box is not base64") from error


def _store_one(node: Node, place: Place, accepted: _Accepted) -> None:
    entry, header = accepted.entry, accepted.header
    job_id, number, attempt, _ = place.record_key
    upload = SeatUpload(
        job_id=job_id,
        round=number,
        attempt=attempt,
        participant_id=header.contributor,
        header_digest=header.digest,
        header=dict(entry.document),
        kept=accepted.kept,
        vector=_keep(node, place, accepted),
        first=bool(entry.copies),
    )

    def work(records: Records) -> None:
        if records.add(upload):
            return
        # Two uploads of one contributor can race past the check above; the row decides. Halves of one are joined.
        first = records.lock(SeatUpload, job_id, number, attempt, header.contributor)
        if first is None or first.header_digest != header.digest:
            raise RefusedError("secagg-duplicate-upload", "another upload was accepted for this attempt")
        whole = dataclasses.replace(
            first,
            kept=first.kept or upload.kept,
            vector=first.vector or upload.vector,
            first=first.first or upload.first,
        )
        if whole != first:
            records.save(whole)

    node.store.run("seat.upload", work)


def _keep(node: Node, place: Place, accepted: _Accepted) -> str | None:
    """Store a vector, and return its blob; what has not been compared with its header does not lie under its name."""
    entry, header = accepted.entry, accepted.header
    if entry.vector is None:
        return None
    checked = checked_at_once(place, header.contributor, first=bool(entry.copies))
    return (node.blobs.put if checked else node.blobs.put_claimed)(entry.vector, header.vector)


def _store_many(node: Node, place: Place, owner: str, accepted: Sequence[_Accepted]) -> None:
    job_id, number, attempt, name = place.record_key
    parcel = SeatParcel(
        job_id=job_id,
        round=number,
        attempt=attempt,
        group=name,
        participant_id=owner,
        blob=node.blobs.put(encode([dataclasses.replace(one.entry, box=one.kept) for one in accepted])),
        accepted=[
            (one.header.contributor, one.header.digest, one.entry.box is not None, one.entry.vector is not None)
            for one in accepted
        ],
    )

    def work(records: Records) -> None:
        earlier = records.select(SeatParcel, job_id, number, attempt, name, owner)
        if len(earlier) >= _MOST_PARCELS:
            raise RefusedError(
                "too-many-parcels", f"a provider hands a seat at most {_MOST_PARCELS} parcels an attempt"
            )
        known = {contributor: digest for one in earlier for contributor, digest, *_ in one.accepted}
        if any(known.get(contributor, digest) != digest for contributor, digest, *_ in parcel.accepted):
            raise RefusedError("secagg-duplicate-upload", "another upload was accepted for this attempt")
        records.add(parcel)

    node.store.run("seat.parcel", work)


def _copy(node: Node, place: Place, accepted: Sequence[_Accepted]) -> list[int]:
    """Hand what we are the first carrier of to the other carriers; return the columns that have all of it."""
    by_column: dict[int, list[Entry]] = {}
    asked: set[int] = set()
    for one in accepted:
        if one.entry.vector is None or not one.entry.copies:
            continue
        asked |= {int(text) for text in one.entry.copies if text.isdecimal()}
        for column in place.group.carriers(place.context, one.header.contributor):
            box = one.entry.copies.get(str(column))
            if column != place.column and box is not None:
                by_column.setdefault(column, []).append(dataclasses.replace(one.entry, box=box, copies={}))
    done = [column for column, entries in by_column.items() if _hand(node, place, column, entries)]
    missed = set(by_column) - set(done)
    if missed:
        job_id, number, attempt, name = place.record_key
        due = node.now()
        node.store.run(
            "seat.copy", lambda records: records.enqueue("learning.copy", f"{job_id}|{number}|{attempt}|{name}", due)
        )
    return sorted(done)


def _hand(node: Node, place: Place, column: int, entries: Sequence[Entry]) -> bool:
    """Give entries to another seat of the group; False where it should be tried again."""
    target = place.group.seats[column].participant
    path, many = place.path("uploads"), place.manifest.terms.granularity == "learner"
    try:
        if many:
            headers = {"content-type": MEDIA_TYPE, "Orchard-Group": place.name}
            good_answer(node, target, node.peers.call(target, "POST", path, content=encode(entries), headers=headers))
            return True
        for entry in entries:
            head = base64.urlsafe_b64encode(canonical_json({"document": entry.document, "box": entry.box})).decode()
            reply = node.peers.call(
                target, "POST", path, content=bytes(entry.vector or b""), headers={"Orchard-Upload": head}
            )
            good_answer(node, target, reply)
    except PeerError as error:
        return error.final
    return True


def _bare(one: Held) -> Entry:
    vector = None if one.vector is None else one.vector()
    return Entry(document=one.document, box=None, vector=vector)
