"""Hostile uploads, shares and openings at the routes: a typed refusal that names who signed, and nothing is stored.

A round is stopped where a true message is on its way; every case is that message with one thing wrong, and in the end
the true one is still taken. What the core refuses by itself is in ``tests/unit/test_secagg_*``.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learning.errors import PeerError
from learning.placing import manifest_of
from learning.rounds import OPENING_KIND, SeatParcel, SeatShare, SeatUpload, Step
from learning.secagg.keys import box_info, seal
from learning.secagg.packing import vector_digest
from tests.support.federation import COLLECTOR, Federation, Member, open_federation, school


@dataclasses.dataclass(frozen=True)
class Message:
    """A message on its way: path below ``/learning``, signed document, sealed box, raw body, transfer token.

    ``copies`` are the boxes by column with which a contributor makes the receiver its first carrier.
    """

    path: str
    document: Any
    box: str | None
    body: bytes
    token: str = ""
    copies: dict[str, str] = dataclasses.field(default_factory=dict)

    def but(self, **changes: Any) -> "Message":
        """Return the message with something else in it."""
        return dataclasses.replace(self, **changes)

    def signed(self, member: Member, form: str, /, **changes: Any) -> "Message":
        """Return the message with its payload changed and signed by ``member``."""
        return self.but(document=member.node.signer.sign(form, self.document["payload"] | changes))

    def about(self, member: Member, **changes: Any) -> "Message":
        """Return the upload as ``member`` would sign it for a context with other values."""
        return self.signed(member, "secagg-upload", context=self.document["payload"]["context"] | changes)


@dataclasses.dataclass
class Held:
    """A receiver that does not get one kind of message, and the first whole one that it did not get."""

    member: Member
    ending: str
    first: Message | None = None

    def __post_init__(self) -> None:
        """Put ourselves before the receiver's routes."""
        self.request = self.member.client.request
        self.member.client.request = self.instead

    def instead(self, method: str, url: str, **given: Any) -> Any:
        """Keep what is to be held, and hand on everything else."""
        if not url.endswith(self.ending):
            return self.request(method, url, **given)
        message = _read(url.removeprefix("/learning"), given["headers"], given["content"])
        if self.first is None and message.body:
            self.first = message
        raise PeerError(f"{self.member.name} does not answer")

    def send(self, message: Message, caller: str) -> tuple[int, dict[str, Any]]:
        """Send a message of our own; return status and body."""
        header, value = _write(message)
        sent = {"authorization": f"Bearer {caller}", header: base64.urlsafe_b64encode(value).decode()}
        if message.token:
            sent["orchard-transfer"] = message.token
        answer = self.request("POST", f"/learning{message.path}", content=message.body, headers=sent)
        return answer.status_code, answer.json()

    def stored(self) -> tuple[str, list[str]]:
        """Return everything that the receiver has kept: rows and files."""
        rows = self.member.node.store.run(
            "test", lambda records: [records.select(kind) for kind in (SeatUpload, SeatParcel, SeatShare, Step)]
        )
        return repr(rows), sorted(str(path) for path in _folder(self.member).rglob("*") if path.is_file())


def _read(path: str, headers: dict[str, str], body: bytes) -> Message:
    given = {name.lower(): text for name, text in headers.items()}
    (text,) = [given[name] for name in ("orchard-upload", "orchard-share", "orchard-opening") if name in given]
    value = json.loads(base64.urlsafe_b64decode(text))
    token = given.get("orchard-transfer", "")
    document, box, copies = value.get("document", value), value.get("box"), value.get("copies", {})
    return Message(path=path, document=document, box=box, body=body, token=token, copies=copies)


def _write(message: Message) -> tuple[str, bytes]:
    if message.path.endswith("/rounds"):
        return "orchard-opening", json.dumps(message.document).encode()
    if message.path.endswith("/shares"):
        return "orchard-share", json.dumps({"document": message.document}).encode()
    value = {"document": message.document, "box": message.box, "copies": message.copies}
    return "orchard-upload", json.dumps(value).encode()


def _folder(member: Member) -> Path:
    return member.federation.folder / hashlib.sha256(member.name.encode()).hexdigest()[:8] / "blobs"


@dataclasses.dataclass(frozen=True)
class Scene:
    """A round that stands still: who does not get what, from whom, and who has no part in this (``other``, ``idle``)."""

    federation: Federation
    job_id: str
    held: Held
    sender: Member
    other: Member
    true: Message
    idle: Held

    def refused(self, message: Message, status: int, code: str, *, names: str | None = None) -> None:
        """Send ``message`` and check that it is refused with this code, names its sender and leaves nothing behind."""
        before = self.held.stored()
        got, body = self.held.send(message, self.sender.name)
        assert (got, body["code"]) == (status, code)
        assert names is None or names in body["detail"]
        assert self.held.stored() == before


@pytest.fixture(scope="module")
def uploading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Give a round in which a seat waits for an upload."""
    with _uploading(tmp_path_factory.mktemp("uploads")) as scene:
        yield scene


@contextlib.contextmanager
def _uploading(folder: Path) -> Iterator[Scene]:
    """Give a round of four schools and three seats in which a seat waits for an upload whose vector it carries."""
    with open_federation(folder, 4) as federation:
        job_id = federation.start()
        seats = [Held(member, "/uploads") for member in federation.schools()]
        federation.settle(60, until=lambda: any(seat.first for seat in seats))
        # Not one that is asked because the first carrier did not answer: it compares what it stores only if it must.
        held = next(seat for seat in seats if seat.first and seat.first.copies)
        assert held.first is not None
        sender = federation.members[held.first.document["payload"]["participant"]]
        other = next(member for member in federation.schools() if member not in (sender, held.member))
        part = sender.part(job_id)
        group = manifest_of(sender.node, part.manifest, part).group
        assert group is not None
        (idle,) = [seat for seat in seats if group.seat_of(seat.member.name) is None]
        yield Scene(federation, job_id, held, sender, other, held.first, idle)


def _steps(federation: Federation, job_id: str) -> list[Step]:
    node = federation.members[school(1)].node
    return node.store.run("test", lambda records: records.select(Step, job_id))


def _equivocated(scene: Scene) -> Message:
    """Return the upload with a box of other seeds than the committed ones, properly sealed, named and signed."""
    federation, seat = scene.federation, scene.held.member
    part = seat.part(scene.job_id)
    manifest = manifest_of(seat.node, part.manifest, part)
    context = manifest.context(round=1, attempt=1, model=_steps(federation, scene.job_id)[0].model)
    assert manifest.group is not None
    column = manifest.group.seat_of(seat.name)
    assert column is not None
    held = manifest.group.table.held_by(column)
    info = box_info(context.digest, scene.sender.name, seat.name)
    box = seal(bytes(32 * len(held)), manifest.group.seats[column].sealing_key, info)
    digests = list(scene.true.document["payload"]["boxes"])
    digests[column] = hashlib.sha256(box).hexdigest()
    lying = scene.true.signed(scene.sender, "secagg-upload", boxes=digests)
    return lying.but(box=base64.b64encode(box).decode())


Case = Callable[[Scene], Message]
UPLOADS: dict[str, tuple[Case, str]] = {
    "truncated": (lambda s: s.true.but(body=s.true.body[:-1]), "secagg-vector"),
    "over-long": (lambda s: s.true.but(body=s.true.body + b"\0"), "secagg-vector"),
    "changed": (lambda s: s.true.but(body=b"\1" + s.true.body[1:]), "secagg-vector"),
    "wrong d": (lambda s: s.true.about(s.sender, d=s.true.document["payload"]["context"]["d"] + 1), "secagg-context"),
    "wrong k": (lambda s: s.true.about(s.sender, k=24), "secagg-context"),
    "another round's": (lambda s: s.true.about(s.sender, round=2), "secagg-context"),
    "another attempt's": (lambda s: s.true.about(s.sender, attempt=2), "secagg-context"),
    "another job's": (lambda s: s.true.about(s.sender, job="urn:uuid:other"), "secagg-context"),
    "another plan's": (lambda s: s.true.about(s.sender, plan="ab" * 32), "secagg-context"),
    "another model's": (lambda s: s.true.about(s.sender, model="ab" * 32), "secagg-context"),
    "in the clear": (lambda s: s.true.about(s.sender, aggregation="clear"), "secagg-context"),
    "not a number": (lambda s: s.true.but(document=_with(s.true, "round", float("nan"))), "secagg-header"),
    "infinite": (lambda s: s.true.but(document=_with(s.true, "round", float("inf"))), "secagg-header"),
    "changed on the way": (lambda s: s.true.but(document=_with(s.true, "round", 2)), "secagg-header"),
    "signed by another": (lambda s: s.true.signed(s.other, "secagg-upload"), "secagg-header"),
    "signed as a share": (lambda s: s.true.signed(s.sender, "secagg-share"), "secagg-header"),
    "one field more": (lambda s: s.true.signed(s.sender, "secagg-upload", weight=9), "secagg-header"),
    "too few commitments": (lambda s: s.true.signed(s.sender, "secagg-upload", seeds=[]), "secagg-header"),
    "a stranger's": (
        lambda s: s.true.signed(s.federation.collector, "secagg-upload", participant=COLLECTOR, contributor=COLLECTOR),
        "secagg-unknown-contributor",
    ),
    "for somebody else": (
        lambda s: s.true.signed(s.sender, "secagg-upload", contributor=s.other.name),
        "secagg-unknown-contributor",
    ),
    "a box cut short": (lambda s: s.true.but(box=(s.true.box or "")[:-4]), "secagg-box"),
    "no box": (lambda s: s.true.but(box=""), "secagg-box"),
    "other seeds": (_equivocated, "secagg-seed-commitment"),
}


def _with(message: Message, field: str, value: object) -> dict[str, Any]:
    payload = dict(message.document["payload"])
    return message.document | {"payload": payload | {"context": payload["context"] | {field: value}}}


@pytest.mark.parametrize("case", UPLOADS)
def test_a_hostile_upload_is_refused_by_name(uploading: Scene, case: str) -> None:
    """Whatever is wrong with an upload, the seat says what and who signed it, and stores nothing of it."""
    make, code = UPLOADS[case]
    names = COLLECTOR if case == "a stranger's" else uploading.sender.name
    uploading.refused(make(uploading), 403, code, names=names)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"document": None}, "bad-upload"),
        ({"document": "text"}, "bad-upload"),
        ({"document": []}, "bad-upload"),
        ({"document": {}}, "secagg-header"),
        ({"document": {"payload": {"participant": 7}}}, "secagg-header"),
        ({"box": None, "body": b""}, "bad-upload"),
        ({"box": 7}, "bad-upload"),
        ({"box": "%%%"}, "bad-upload"),
    ],
)
def test_what_is_not_an_upload_is_refused(uploading: Scene, changes: dict[str, Any], code: str) -> None:
    """Nobody signed it, so there is nobody to name but the caller."""
    uploading.refused(uploading.true.but(**changes), 403, code)


def test_an_upload_for_a_round_that_is_not_open_waits(uploading: Scene) -> None:
    """A seat that has not heard of the round says: ask again; and stores nothing."""
    path = uploading.true.path.replace("/rounds/1/", "/rounds/2/")
    uploading.refused(uploading.true.but(path=path), 425, "not-yet")


def test_who_has_no_seat_takes_no_upload(uploading: Scene) -> None:
    """A seat knows nothing of another job or group, and a member without a seat nothing of this one."""
    path = uploading.true.path.replace(uploading.job_id, "urn:uuid:other")
    uploading.refused(uploading.true.but(path=path), 404, "not-found")
    uploading.refused(uploading.true.about(uploading.sender, group="0.7"), 404, "not-found")
    before = uploading.idle.stored()
    status, body = uploading.idle.send(uploading.true, uploading.sender.name)
    assert (status, body["code"]) == (404, "not-found")
    assert uploading.idle.stored() == before


def test_the_true_upload_is_taken_once_and_no_second_one(uploading: Scene) -> None:
    """After all that the true one is accepted, also twice; another one of the same sender is not."""
    for _ in range(2):
        assert uploading.held.send(uploading.true, uploading.sender.name)[0] == 202
    boxes = ["ab" * 32, *uploading.true.document["payload"]["boxes"][1:]]
    second = uploading.true.signed(uploading.sender, "secagg-upload", boxes=boxes)
    uploading.refused(second, 403, "secagg-duplicate-upload", names=uploading.sender.name)


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Give a round whose collector waits for the seats' shares."""
    with open_federation(tmp_path_factory.mktemp("shares"), 3) as federation:
        job_id = federation.start()
        held = Held(federation.collector, "/shares")
        federation.settle(60, until=lambda: held.first is not None)
        assert held.first is not None
        sender = federation.members[held.first.document["payload"]["seat"]]
        other = next(member for member in federation.schools() if member is not sender)
        yield Scene(federation, job_id, held, sender, other, held.first, held)


SHARES: dict[str, tuple[Case, str]] = {
    "truncated": (lambda s: s.true.but(body=s.true.body[:-1]), "secagg-share"),
    "over-long": (lambda s: s.true.but(body=s.true.body + b"\0"), "secagg-share"),
    "changed": (lambda s: s.true.but(body=b"\1" + s.true.body[1:]), "secagg-share"),
    "another round's": (lambda s: s.true.signed(s.sender, "secagg-share", context="ab" * 32), "secagg-share"),
    "another set's": (lambda s: s.true.signed(s.sender, "secagg-share", uploads="ab" * 32), "secagg-share"),
    "unknown seats": (lambda s: s.true.signed(s.sender, "secagg-share", lost=[7]), "secagg-share"),
    "changed on the way": (
        lambda s: s.true.but(document=s.true.document | {"payload": s.true.document["payload"] | {"lost": [1]}}),
        "secagg-share",
    ),
    "not a number": (
        lambda s: s.true.but(
            document=s.true.document | {"payload": s.true.document["payload"] | {"lost": [float("nan")]}}
        ),
        "secagg-share",
    ),
    "signed by another": (lambda s: s.true.signed(s.other, "secagg-share"), "secagg-share"),
    "signed as an upload": (lambda s: s.true.signed(s.sender, "secagg-upload"), "secagg-share"),
}


@pytest.mark.parametrize("case", SHARES)
def test_a_hostile_share_is_refused_by_name(sharing: Scene, case: str) -> None:
    """A collector adds up nothing that is not the signed share of this seat over this set."""
    make, code = SHARES[case]
    sharing.refused(make(sharing), 403, code, names=sharing.sender.name)


def test_a_share_comes_from_its_own_seat(sharing: Scene) -> None:
    """A seat cannot hand in another's share, and a stranger finds no round."""
    before = sharing.held.stored()
    status, body = sharing.held.send(sharing.true, sharing.other.name)
    assert (status, body["code"]) == (403, "wrong-sender")
    unknown = sharing.true.signed(sharing.federation.collector, "secagg-share", seat=COLLECTOR)
    assert sharing.held.send(unknown, sharing.sender.name)[0] == 403
    status, body = sharing.held.send(sharing.true, COLLECTOR)
    assert (status, body["code"]) == (404, "not-found")
    assert sharing.held.stored() == before


def test_the_true_share_is_taken_once_and_no_second_one(sharing: Scene) -> None:
    """The true one is accepted, also twice; another one of this seat is not."""
    for _ in range(2):
        assert sharing.held.send(sharing.true, sharing.sender.name)[0] == 202
    before = sharing.held.stored()
    other = bytes(len(sharing.true.body))
    second = sharing.true.signed(sharing.sender, "secagg-share", vector=vector_digest(other))
    status, body = sharing.held.send(second.but(body=other), sharing.sender.name)
    assert (status, body["code"]) == (409, "conflict")
    assert sharing.held.stored() == before


@pytest.fixture(scope="module")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Give a job whose first round a school has not heard of yet."""
    with open_federation(tmp_path_factory.mktemp("openings"), 3) as federation:
        job_id = federation.start()
        held = Held(federation.members[school(1)], "/rounds")
        federation.settle(60, until=lambda: held.first is not None)
        assert held.first is not None
        yield Scene(federation, job_id, held, federation.collector, federation.members[school(2)], held.first, held)


OPENINGS: dict[str, tuple[Case, str]] = {
    "a model cut short": (lambda s: s.true.but(body=s.true.body[:-1]), "wrong-model"),
    "a model with more": (lambda s: s.true.but(body=s.true.body + b"\0"), "wrong-model"),
    "another model": (lambda s: s.true.but(body=bytes(len(s.true.body))), "wrong-model"),
    "no model": (lambda s: s.true.but(body=b""), "wrong-model"),
    "another job's": (lambda s: s.true.signed(s.sender, OPENING_KIND, job="urn:uuid:other"), "wrong-manifest"),
    "another manifest's": (lambda s: s.true.signed(s.sender, OPENING_KIND, manifest="ab" * 32), "wrong-manifest"),
    "a round too far": (lambda s: s.true.signed(s.sender, OPENING_KIND, round=99), "no-such-round"),
    "round zero": (lambda s: s.true.signed(s.sender, OPENING_KIND, round=0), "no-such-round"),
    "not a number": (lambda s: s.true.but(document=_changed(s.true, round=float("nan"))), "bad-opening"),
    "no kind": (lambda s: s.true.signed(s.sender, OPENING_KIND, kind=None), "bad-opening"),
    "changed on the way": (lambda s: s.true.but(document=_changed(s.true, round=2)), "bad-opening"),
    "signed by another": (lambda s: s.true.signed(s.other, OPENING_KIND), "bad-opening"),
    "signed as a plan": (lambda s: s.true.signed(s.sender, "training-plan"), "bad-opening"),
}


def _changed(message: Message, **changes: object) -> dict[str, Any]:
    return dict(message.document) | {"payload": message.document["payload"] | changes}


@pytest.mark.parametrize("case", OPENINGS)
def test_a_hostile_opening_trains_nothing(opening: Scene, case: str) -> None:
    """A provider begins no work, and keeps no model, for an opening that is not its collector's for this job."""
    make, code = OPENINGS[case]
    opening.refused(make(opening), 403, code)


def test_only_the_collector_opens_a_round(opening: Scene) -> None:
    """Another member that got hold of the opening and of the token cannot use them."""
    before = opening.held.stored()
    status, body = opening.held.send(opening.true, opening.other.name)
    assert (status, body["code"]) == (401, "transfer-token-foreign")
    assert opening.held.stored() == before


def test_the_true_opening_is_taken_once_and_no_second_model(opening: Scene) -> None:
    """The true one is accepted, also twice; another model in the same attempt is not."""
    for _ in range(2):
        assert opening.held.send(opening.true, opening.sender.name)[0] == 202
    other = bytes(len(opening.true.body))
    second = opening.true.signed(opening.sender, OPENING_KIND, model=hashlib.sha256(other).hexdigest())
    opening.refused(second.but(body=other), 403, "second-model")
    # The model in use, under another name: what is refused takes nothing away either.
    opening.refused(opening.true.signed(opening.sender, OPENING_KIND, model="ab" * 32), 403, "wrong-model")


def test_after_the_jobs_time_nothing_is_taken(tmp_path: Path) -> None:
    """A manifest that has expired takes no upload, however often it was checked while it was in force."""
    with _uploading(tmp_path) as scene:
        scene.federation.clock.advance(2 * 86400)
        scene.refused(scene.true, 403, "manifest-expired")
