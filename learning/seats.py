"""Our seat in one group in one round attempt: which it is, what it was sent, and its key."""

import base64
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from learning.errors import NotYetError, RefusedError, RoundOverError, UnknownError
from learning.jobs import Participation
from learning.node import Node
from learning.packages import opened_replaced
from learning.parcels import Entry, decode
from learning.placing import manifest_of
from learning.ports import Records
from learning.provide import part_of
from learning.rounds import SeatParcel, SeatUpload, Step
from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import ErasedKeyError, PlacementError
from learning.secagg.header import UploadHeader
from learning.secagg.keys import SealingChain, SealingKey, epoch_of
from learning.secagg.manifest import Manifest
from learning.secagg.packing import vector_digest
from learning.secagg.seat import kept_seeds
from learning.tree import TOP, ExecutionTree, parse_replaced
from policies.signing import document_digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Our seat in a group: the group as it is now, our column, the attempt's context, and our key of the round."""

    part: Participation
    manifest: Manifest
    tree: ExecutionTree
    step: Step
    name: str
    group: Group
    column: int
    context: RoundContext
    found: "Received"
    key: SealingKey = dataclasses.field(repr=False)

    @property
    def record_key(self) -> tuple[str, int, int, str]:
        """Job, round, attempt and group: where this seat's records of the attempt begin."""
        return self.step.job_id, self.step.round, self.step.attempt, self.name

    def path(self, what: str) -> str:
        """Return the path below ``/learning`` of something about this attempt."""
        return f"/jobs/{self.step.job_id}/rounds/{self.step.round}/attempts/{self.step.attempt}/{what}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """What our seat holds of one contributor: header, kept seeds, and (where it carries) the vector when asked for.

    Whoever reads a copy that was not compared with its header when it came gets it compared now, or ``NotYetError``.
    ``first`` says that the vector came from its contributor, so that copying it on is ours.
    """

    document: Mapping[str, Any]
    kept: bytes | None = dataclasses.field(repr=False)
    vector: Callable[[], bytes | memoryview] | None = dataclasses.field(default=None, repr=False)
    first: bool = False

    @cached_property
    def header(self) -> UploadHeader:
        """The header, which was verified when it arrived."""
        payload = self.document["payload"]
        return UploadHeader(
            digest=document_digest(self.document),
            participant=payload["participant"],
            contributor=payload["contributor"],
            vector=payload["vector"],
            seeds=tuple(payload["seeds"]),
            boxes=tuple(payload["boxes"]),
        )

    def seeds(self, place: Place) -> Sequence[bytes]:
        """Return the seeds."""
        if self.kept is None:
            raise NotYetError("a box has not arrived at this seat")
        return kept_seeds(self.kept, self.header, column=place.column, key=place.key, group=place.group)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Received:
    """What our seat has in one attempt of one leaf group, by contributor."""

    headers: dict[str, str]
    boxed: frozenset[str]
    vectors: frozenset[str]
    uploads: tuple[SeatUpload, ...]
    parcels: tuple[SeatParcel, ...]

    @property
    def whole(self) -> dict[str, str]:
        """Contributor -> header digest, of those whose box is here."""
        return {name: self.headers[name] for name in self.boxed}


_NOTHING = Received(headers={}, boxed=frozenset(), vectors=frozenset(), uploads=(), parcels=())


def place_in(
    node: Node,
    job_id: str,
    number: int,
    attempt: int,
    name: str = TOP,
    *,
    consumer: str | None = None,
    replaced: object = None,
    look: bool = True,
) -> Place:
    """Return our seat in a group.

    Args:
        node: this participant.
        job_id: the job.
        number: the round.
        attempt: the attempt.
        name: the group.
        consumer: who asks, where only the job's collector may.
        replaced: seats of this group replaced in the job as of now, ``{column: times}``; None: as the round was opened.
        look: also read what has arrived for the group.

    Raises:
        NotYetError: the round is not open here yet.
        UnknownError: we have no such seat.
        RefusedError: the replacements cannot be.
        RoundOverError: our key of the round is erased.
    """
    part = part_of(node, job_id, consumer)
    if part.manifest is None:
        raise NotYetError("the job's manifest is not accepted here yet")
    manifest = manifest_of(node, part.manifest, part)
    tree = manifest.tree
    if tree is None or name not in tree.names or not part.sealing_key or tree.column_of(node.participant_id) is None:
        raise UnknownError("no such job")

    def work(records: Records) -> tuple[Step | None, Received]:
        found = received_at(records, job_id, number, attempt, name) if look else _NOTHING
        return records.get(Step, job_id, number, attempt), found

    step, found = node.store.run("seat.place", work)
    if step is None:
        raise NotYetError("this round is not open here yet")
    try:
        opened = opened_replaced(step, manifest).get(name, {})
        now = opened if replaced is None else parse_replaced({name: replaced}, tree)[name]
        group = manifest.group_of(name, round=number, replaced=opened, now=now)
    except PlacementError as error:
        raise RefusedError(error.code, str(error)) from error
    column = group.seat_of(node.participant_id)
    if column is None:
        raise UnknownError("no such seat")
    keys = (part.approval or {})["payload"]["hpke_public"]
    try:
        chain = SealingChain.from_text(part.sealing_key).at(epoch_of(number, manifest.terms.rounds, len(keys)))
    except ErasedKeyError as error:
        raise RoundOverError from error
    return Place(
        part=part,
        manifest=manifest,
        tree=tree,
        step=step,
        name=name,
        group=group,
        column=column,
        found=found,
        context=manifest.context(round=number, attempt=attempt, model=step.model, group=name, replaced=opened),
        key=chain.key,
    )


def received_at(records: Records, job_id: str, number: int, attempt: int, name: str) -> Received:
    """Return what has arrived for a leaf group, from the seat's records."""
    uploads = [
        upload
        for upload in records.select(SeatUpload, job_id, number, attempt)
        if upload.header["payload"]["context"]["group"] == name
    ]
    parcels = records.select(SeatParcel, job_id, number, attempt, name)
    headers = {upload.participant_id: upload.header_digest for upload in uploads}
    boxed = {upload.participant_id for upload in uploads if upload.kept is not None}
    vectors = {upload.participant_id for upload in uploads if upload.vector is not None}
    for parcel in parcels:
        for contributor, digest, has_box, has_vector in parcel.accepted:
            headers[contributor] = digest
            if has_box:
                boxed.add(contributor)
            if has_vector:
                vectors.add(contributor)
    return Received(
        headers=headers,
        boxed=frozenset(boxed),
        vectors=frozenset(vectors),
        uploads=tuple(uploads),
        parcels=tuple(parcels),
    )


def holdings(node: Node, place: Place, wanted: Iterable[str]) -> dict[str, Held]:
    """Return what our seat holds of the wanted contributors; vectors are read when they are asked for."""
    names, found = set(wanted), place.found
    held: dict[str, Held] = {}
    for upload in found.uploads:
        if upload.participant_id in names:
            vector = upload.vector
            held[upload.participant_id] = Held(
                document=upload.header,
                kept=None if upload.kept is None else base64.b64decode(upload.kept),
                vector=None if vector is None else _reader(node, upload, vector),
                first=upload.first,
            )
    for parcel in found.parcels:
        accepted = {contributor for contributor, *_ in parcel.accepted} & names
        if not accepted:
            continue
        for entry in decode(node.blobs.get(parcel.blob), place.context.vector_bytes):
            if entry.contributor in accepted:
                _add(
                    held,
                    Held(
                        document=entry.document,
                        kept=None if entry.box is None else base64.b64decode(entry.box),
                        vector=None if entry.vector is None else _given(place, entry, entry.vector),
                        first=bool(entry.copies),
                    ),
                )
    return held


def _add(held: dict[str, Held], new: Held) -> None:
    """Merge the halves of one upload that came apart: the box from its provider, the vector from its first carrier."""
    name = str(new.document["payload"]["contributor"])
    old = held.get(name)
    if old is not None:
        boxed = new if old.kept is None else old
        new = dataclasses.replace(boxed, vector=old.vector or new.vector, first=old.first or new.first)
    held[name] = new


def checked_at_once(place: Place, contributor: str, *, first: bool) -> bool:
    """Say whether a vector is compared with its header as it comes, and not only when it is needed.

    It is by whoever adds it while all seats live, and by whoever takes it from its contributor and hands on copies.
    """
    return first or place.group.carriers(place.context, contributor)[0] == place.column


def _reader(node: Node, upload: SeatUpload, blob: str) -> Callable[[], bytes | memoryview]:
    promised = upload.header["payload"]["vector"]

    def read() -> bytes:
        if blob == promised:
            return node.blobs.get(blob)
        try:
            return node.blobs.get_claimed(promised)
        except UnknownError as error:
            raise NotYetError("the stored copy of a vector is not the one in its header") from error

    return read


def _given(place: Place, entry: Entry, vector: bytes | bytearray | memoryview) -> Callable[[], bytes | memoryview]:
    view, checked = memoryview(vector), checked_at_once(place, entry.contributor, first=bool(entry.copies))

    def read() -> memoryview:
        if not checked and vector_digest(view) != entry.document["payload"]["vector"]:
            raise NotYetError("the stored copy of a vector is not the one in its header")
        return view

    return read
