"""A package on its way to the seats: headers and boxes to all of them, each vector once, to its first living carrier.

The first carrier of a vector hands it, with header and box, to the other seats that store it, so that whoever has its
answer need not call those. A *slot* is a seat of a leaf group: the group's number times the seats of a group, plus the
column. ``Step.delivered`` holds the slots that have everything they need from us, ``Step.carried`` those first carriers
whose vectors somebody has taken.
"""

import base64
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from learning.errors import NotYetError, PeerError, RefusedError, UnknownError
from learning.members import good_answer
from learning.node import Node
from learning.packages import Load, Upload
from learning.parcels import MEDIA_TYPE, Entry, encode
from learning.ports import Records
from learning.rounds import Step, StepState
from learning.uploads import receive_parcel, receive_upload
from policies.canonical import canonical_json

_CALLS_AT_ONCE = 8
# What share of a round's time a first carrier that does not answer is waited for before the next one gets the vector.
_PATIENT_SHARE = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """What one seat is sent in one call; ``firsts`` are the first carriers whose vectors are in it."""

    load: Load
    column: int
    entries: tuple[Entry, ...]
    firsts: frozenset[int]

    @property
    def slot(self) -> int:
        """The seat's slot."""
        return _slot(self.load, self.column)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Answer:
    """What came of a request: columns that copies went to, or what went wrong."""

    copied: frozenset[int] = frozenset()
    error: PeerError | None = None


def spread(node: Node, step: Step, loads: Sequence[Load]) -> tuple[Step, list[PeerError]]:
    """Hand out what is still to be handed out; return the step and what went wrong."""
    late = node.now() >= step.opened_at + (step.deadline - step.opened_at) / _PATIENT_SHARE
    errors: list[PeerError] = []
    given: set[tuple[int, str]] = set()
    # First the seats that get something from us alone; then copies that a carrier could not make.
    for final in (False, True):
        requests = [one for load in loads for one in _requests(load, step, given, final=final, late=late)]
        if not requests:
            continue
        with ThreadPoolExecutor(max_workers=_CALLS_AT_ONCE) as pool:
            answers = list(pool.map(partial(_send, node, step), requests))
        step = _note(node, step, loads, given, requests, answers)
        errors += [answer.error for answer in answers if answer.error is not None]
    slots = {_slot(load, column) for load in loads for column in range(len(load.group.seats))}
    if slots <= set(step.delivered):
        return step, []
    return step, errors or [PeerError("a seat has not got its part yet")]


def change_step(node: Node, step: Step, change: Callable[[Step], Step]) -> Step:
    """Change a step that is being delivered as it is stored now; one that has moved on stays as it is.

    Raises:
        UnknownError: no such step.
    """

    def work(records: Records) -> Step:
        row = records.lock(Step, step.job_id, step.round, step.attempt)
        if row is None:
            raise UnknownError("no such step")
        if row.state is not StepState.UPLOADING:
            return row
        changed = change(row)
        if changed != row:
            records.save(changed)
        return changed

    return node.store.run("step.change", work)


def _slot(load: Load, column: int) -> int:
    return load.number * len(load.group.seats) + column


def _requests(
    load: Load, step: Step, given: AbstractSet[tuple[int, str]], *, final: bool, late: bool
) -> list[_Request]:
    """Return what is to be sent for one leaf group; ``final``: also what first carriers should have copied."""
    found = []
    for column in range(len(load.group.seats)):
        if _slot(load, column) in step.delivered:
            continue
        entries, firsts = [], set()
        for upload in load.uploads:
            if (_slot(load, column), upload.contributor) in given:
                continue
            carriers = load.group.carriers(load.context, upload.contributor)
            carried = _slot(load, carriers[0]) in step.carried
            takes = column == carriers[0] or (late and final and len(carriers) > 1 and column == carriers[1])
            if not carried and takes:
                entries.append(_with_vector(upload, column, carriers))
                firsts.add(carriers[0])
            elif column not in carriers or (final and (carried or late)):
                entries.append(Entry(document=upload.document, box=upload.boxes[column]))
        if entries:
            found.append(_Request(load=load, column=column, entries=tuple(entries), firsts=frozenset(firsts)))
    return found


def _with_vector(upload: Upload, column: int, carriers: Sequence[int]) -> Entry:
    copies = {str(other): upload.boxes[other] for other in carriers if other != column}
    return Entry(document=upload.document, box=upload.boxes[column], vector=upload.vector, copies=copies)


def _send(node: Node, step: Step, request: _Request) -> _Answer:
    target = request.load.group.seats[request.column].participant
    path = f"/jobs/{step.job_id}/rounds/{step.round}/attempts/{step.attempt}/uploads"
    many = "parcels" in (step.package or {})
    if target == node.participant_id:
        return _keep_own(node, step, request, many=many)
    try:
        if many:
            headers = {"content-type": MEDIA_TYPE, "Orchard-Group": request.load.leaf}
            reply = node.peers.call(target, "POST", path, content=encode(request.entries), headers=headers)
        else:
            (entry,) = request.entries
            envelope = {"document": entry.document, "box": entry.box}
            if entry.copies:
                envelope["copies"] = dict(entry.copies)
            head = base64.urlsafe_b64encode(canonical_json(envelope)).decode()
            content = bytes(entry.vector or b"")
            reply = node.peers.call(target, "POST", path, content=content, headers={"Orchard-Upload": head})
        body = good_answer(node, target, reply)
    except PeerError as error:
        return _Answer(error=error)
    refused, copied = body.get("refused"), body.get("copied")
    if isinstance(refused, dict) and refused:
        return _Answer(error=PeerError(f"{node.peers.name(target)} refused uploads", code="upload-refused", final=True))
    return _Answer(copied=_whole(copied))


def _keep_own(node: Node, step: Step, request: _Request, *, many: bool) -> _Answer:
    where = (step.job_id, step.round, step.attempt)
    try:
        if many:
            data = encode(request.entries)
            copied, refused = receive_parcel(node, node.participant_id, *where, request.load.leaf, data)
            if refused:
                return _Answer(error=PeerError("our own seat refused uploads", code="upload-refused", final=True))
        else:
            (entry,) = request.entries
            envelope = {"document": entry.document, "box": entry.box, "copies": dict(entry.copies)}
            copied = receive_upload(node, *where, envelope, bytes(entry.vector or b""))
    except (NotYetError, UnknownError) as error:
        return _Answer(error=PeerError(f"our own seat: {error}", code=error.code))
    except RefusedError as error:
        return _Answer(error=PeerError(f"our own seat: {error}", code=error.code, final=True))
    return _Answer(copied=frozenset(copied))


def _note(
    node: Node,
    step: Step,
    loads: Sequence[Load],
    given: set[tuple[int, str]],
    requests: Sequence[_Request],
    answers: Sequence[_Answer],
) -> Step:
    """Write down which vectors have been taken, and which seats have all they need from us."""
    good = [(request, answer) for request, answer in zip(requests, answers, strict=True) if answer.error is None]
    carried = set(step.carried)
    for request, _ in good:
        carried |= {_slot(request.load, first) for first in request.firsts}
    for request, answer in good:
        for entry in request.entries:
            name = str(entry.document["payload"]["contributor"])
            given.add((request.slot, name))
            if entry.vector is not None:
                given |= {
                    (_slot(request.load, column), name) for column in answer.copied if str(column) in entry.copies
                }
    delivered = set(step.delivered)
    for load in loads:
        for column in range(len(load.group.seats)):
            slot = _slot(load, column)
            if slot not in delivered and all((slot, upload.contributor) in given for upload in load.uploads):
                delivered.add(slot)
    return change_step(
        node,
        step,
        lambda row: dataclasses.replace(
            row, delivered=_with(row.delivered, delivered), carried=_with(row.carried, carried)
        ),
    )


def _with(known: Iterable[int], new: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted({*known, *new}))


def _whole(value: object) -> frozenset[int]:
    return frozenset(item for item in value if type(item) is int) if isinstance(value, list) else frozenset()
