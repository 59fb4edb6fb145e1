"""Hostile bodies, inner shares, inner sets and resealings: one table each, a typed refusal that names the sender.

Uploads and sets are in ``test_secagg_uploads.py`` and ``test_secagg_agreement.py``, what routes do with all of it in
``tests/api/test_secagg_hostile.py``.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from learning.errors import RefusedError
from learning.parcels import Entry, decode, encode
from learning.secagg.context import Group, RoundContext
from learning.secagg.contributor import UploadPackage, reseal
from learning.secagg.errors import (
    ContextMismatchError,
    HeaderError,
    QuorumError,
    ReplacementError,
    SecondSetError,
    SecureAggregationError,
    SeedCommitmentError,
    SetError,
    ShareError,
    UnknownContributorError,
    VectorError,
)
from learning.secagg.inner import (
    KIND,
    InnerSet,
    accept_child_share,
    add_inner_shares,
    read_inner_share,
    release_inner,
)
from learning.secagg.keys import box_info, seal
from learning.secagg.reseals import KIND as RESEAL_KIND
from learning.secagg.reseals import accept_reseal, sign_reseal
from learning.secagg.seat import open_seeds, release
from learning.secagg.sets import sign_set
from learning.secagg.shares import Share, verify_share
from tests.support.secagg_star import (
    Star,
    make_context,
    make_group,
    make_star,
    member_id,
    member_sealing_key,
    member_signer,
    package,
    ring_vector,
)

CHILD = make_context(group="0.0", aggregation="tree")
PARENT = make_context(group="0", aggregation="tree")
SIZE = CHILD.vector_bytes


# Bodies that hold many uploads


def entry(number: int) -> Entry:
    """Return one upload of a body, with its vector."""
    document = {"payload": {"contributor": f"{member_id(1)}#{number}", "context": {"group": "0.0"}}}
    return Entry(document=document, box="AAAA", vector=bytes([number]) * SIZE)


def rewritten(head: bytes, rest: bytes = b"") -> bytes:
    """Return a body with this JSON."""
    return len(head).to_bytes(4, "big") + head + rest


BODY = encode([entry(1), entry(2)])
BODIES: dict[str, bytes] = {
    "empty": b"",
    "no length": BODY[:3],
    "cut in the entries": BODY[:40],
    "cut in a vector": BODY[:-1],
    "one vector too few": BODY[:-SIZE],
    "over-long": BODY + b"\0",
    "one vector too many": BODY + bytes(SIZE),
    "a length beyond the end": b"\xff\xff\xff\xff" + BODY[4:],
    "a length of nothing": b"\0\0\0\0" + BODY[4:],
    "no JSON": rewritten(b"{" * 20),
    "deep": rewritten(b"[" * 100_000),
    "not UTF-8": rewritten(b'{"entries":["\xff"]}'),
    "a list": rewritten(b"[]"),
    "no entries": rewritten(b'{"entries":[]}'),
    "entries of text": rewritten(b'{"entries":["x"]}'),
    "no document": rewritten(b'{"entries":[{"box":"AAAA","carried":false}]}'),
    "a document of text": rewritten(b'{"entries":[{"box":"AAAA","carried":false,"document":"x"}]}'),
    "a box of numbers": rewritten(b'{"entries":[{"box":7,"carried":false,"document":{}}]}'),
    "carried, says a number": rewritten(b'{"entries":[{"box":"AAAA","carried":1,"document":{}}]}'),
    "copies of numbers": rewritten(b'{"entries":[{"box":"AAAA","carried":false,"copies":{"1":2},"document":{}}]}'),
    "one member more": rewritten(b'{"entries":[{"box":"AAAA","carried":false,"document":{},"weight":9}]}'),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_hostile_body_is_refused_as_a_whole(case: str) -> None:
    """A body is exactly its entries and the vectors that they announce, of the round's length."""
    with pytest.raises(RefusedError) as caught:
        decode(BODIES[case], SIZE)
    assert caught.value.code == "bad-upload"


def test_a_body_of_another_ring_is_refused() -> None:
    """Vectors of another d or k have another length; none is cut to fit."""
    for context in (make_context(d=51), make_context(k=24)):
        with pytest.raises(RefusedError):
            decode(BODY, context.vector_bytes)
    assert [bytes(one.vector or b"") for one in decode(BODY, SIZE)] == [entry(1).vector, entry(2).vector]


# Shares that a child's seat hands up


def summed() -> tuple[Star, list[Share]]:
    """Return a leaf group and its seats' shares."""
    star = make_star(3, 1, context=CHILD)
    for number in range(3):
        star.upload(package(star, number, ring_vector(CHILD, number)))
    proposed, statements = star.agree()
    return star, [
        release(
            proposed,
            statements,
            column=column,
            context=CHILD,
            group=star.group,
            signer=member_signer(column),
            lost=frozenset(),
            released=None,
            seeds=lambda _, column=column: (bytes(32),) * len(star.group.table.held_by(column)),
            vectors=star.rows[column].vectors.__getitem__,
        )
        for column in range(3)
    ]


@dataclasses.dataclass(frozen=True)
class Handed:
    """A share on its way up, in column 0."""

    document: dict[str, Any]
    vector: bytes

    def but(self, form: str = "secagg-share", signer: int = 0, **changes: Any) -> "Handed":
        """Return it with its payload changed and signed again."""
        payload = self.document["payload"] | changes
        return dataclasses.replace(self, document=member_signer(signer).sign(form, payload))


CHILD_SHARES: dict[str, Callable[[Handed], Handed]] = {
    "truncated": lambda h: dataclasses.replace(h, vector=h.vector[:-1]),
    "over-long": lambda h: dataclasses.replace(h, vector=h.vector + b"\0"),
    "changed": lambda h: dataclasses.replace(h, vector=bytes(len(h.vector))),
    "of another group": lambda h: h.but(context=PARENT.digest),
    "of another round": lambda h: h.but(context=make_context(group="0.0", aggregation="tree", round=2).digest),
    "of no round": lambda h: h.but(context=None),
    "without bytes": lambda h: h.but(vector=7),
    "changed on the way": lambda h: dataclasses.replace(
        h, document=h.document | {"payload": h.document["payload"] | {"lost": [2]}}
    ),
    "not a number": lambda h: dataclasses.replace(
        h, document=h.document | {"payload": h.document["payload"] | {"lost": [float("nan")]}}
    ),
    "signed by another": lambda h: h.but(signer=1),
    "signed as an upload": lambda h: h.but(form="secagg-upload"),
}


def handed() -> Handed:
    """Return the true share of column 0."""
    _, shares = summed()
    return Handed(document=shares[0].document, vector=bytes(shares[0].vector))


def take(found: Handed, ring: tuple[int, ...] = (0, 3)) -> Any:
    """Let the parent's seat of column 0 take a share."""
    keys = {member_id(number): member_signer(number).public_key for number in ring}
    return accept_child_share(found.document, found.vector, column=0, context=CHILD, ring=keys)


@pytest.mark.parametrize("case", CHILD_SHARES)
def test_a_hostile_child_share_is_refused_by_name(case: str) -> None:
    """A parent's seat adds only the signed share of its own column, of this group and round, byte for byte."""
    true = handed()
    with pytest.raises(ShareError) as caught:
        take(CHILD_SHARES[case](true))
    assert caught.value.sender == member_id(0)
    assert take(true).seat == member_id(0)


def test_a_share_of_another_column_is_nobodys() -> None:
    """A seat takes nothing from outside its column's ring, however well it is signed."""
    for document in (handed().document, {}, {"payload": None}, {"payload": {"seat": 7}}):
        with pytest.raises(ShareError, match="inside its column"):
            take(Handed(document=document, vector=b""), ring=(1, 2))


# What inner seats agree on, and give


def inner_group() -> Group:
    """Return three inner seats."""
    return dataclasses.replace(make_group(3, 1), inner=True, n_min=1, n_max=4)


AGREED = InnerSet.of({"0.0": [(0, "aa" * 32), (1, "bb" * 32)], "0.1": [(0, "cc" * 32)]})


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [["0.0"]],
        [["0.0", "aa"]],
        [[7, []]],
        [["0.0", [["0", "aa"]]]],
        [["0.0", [[True, "aa"]]]],
        [["0.0", [[0, 7]]]],
        [["0.0", [[1, "bb"], [0, "aa"]]]],
        [["0.0", [[0, "aa"], [0, "aa"]]]],
        [["0.1", []], ["0.0", []]],
        [["0.0", []], ["0.0", []]],
    ],
)
def test_a_malformed_inner_set_is_refused(value: Any) -> None:
    """An inner set is sorted, of the stated types, and names no child and no share twice."""
    with pytest.raises(SetError):
        InnerSet.from_json(value)
    assert InnerSet.from_json(AGREED.to_json()) == AGREED


def signed(agreed: InnerSet, column: int, held: InnerSet | None = None, earlier: Any = ()) -> dict[str, Any]:
    """Let an inner seat sign, which holds what ``held`` lists."""
    digests = [name for _, cover in (held or agreed).covers for _, name in cover]
    return sign_set(
        agreed.as_set(),
        context=PARENT,
        group=inner_group(),
        signer=member_signer(column),
        held=agreed.held(column, digests),
        signed=earlier,
    )


def test_an_inner_seat_signs_one_set_and_only_what_it_holds() -> None:
    """A second inner set of a round, and one with a share that did not arrive, are refused."""
    first = signed(AGREED, 0)
    other = InnerSet.of({"0.0": [(0, "dd" * 32)], "0.2": [(0, "ee" * 32)]})
    with pytest.raises(SecondSetError):
        signed(other, 0, earlier=[first])
    with pytest.raises(SetError) as caught:
        signed(AGREED, 0, held=InnerSet.of({"0.0": AGREED.covers[0][1]}))
    assert caught.value.sender == "0.1"


def given(column: int = 0, signatures: int = 3, vector: bytes = bytes(SIZE)) -> Share:
    """Let an inner seat release, shown so many signatures."""
    return release_inner(
        AGREED,
        [signed(AGREED, signer) for signer in range(signatures)],
        column=column,
        context=PARENT,
        group=inner_group(),
        signer=member_signer(column),
        vectors=lambda _: vector,
    )


def test_an_inner_seat_releases_nothing_without_a_quorum_or_of_another_length() -> None:
    """Too few signatures on the inner set, or a stored share that is not the ring's."""
    with pytest.raises(QuorumError):
        given(signatures=2)
    with pytest.raises(VectorError):
        given(vector=bytes(SIZE - 1))


@pytest.mark.parametrize(
    ("form", "signer", "changes"),
    [
        (KIND, 0, {"children": "ab" * 32}),
        (KIND, 0, {"context": CHILD.digest}),
        (KIND, 0, {"vector": None}),
        (KIND, 0, {"seat": member_id(1)}),
        (KIND, 1, {}),
        (KIND, 9, {"seat": member_id(9)}),
        ("secagg-upload", 0, {}),
    ],
)
def test_a_hostile_inner_share_is_refused(form: str, signer: int, changes: dict[str, Any]) -> None:
    """The collector adds only an inner seat's share over the agreed children of this round."""
    payload = given().document["payload"] | changes
    with pytest.raises(ShareError):
        read_inner_share(member_signer(signer).sign(form, payload), AGREED, context=PARENT, group=inner_group())


def test_an_inner_sum_needs_one_share_of_each_column() -> None:
    """A column twice, or missing, is no sum."""
    headers = [
        read_inner_share(given(column).document, AGREED, context=PARENT, group=inner_group()) for column in range(3)
    ]
    for wrong in (headers[:2], [*headers, headers[0]], []):
        with pytest.raises(ShareError):
            add_inner_shares([(one, lambda: bytes(SIZE)) for one in wrong], context=PARENT, group=inner_group())


def test_a_leaf_share_is_no_inner_share_and_the_other_way_round() -> None:
    """The kinds do not mix: what one signs cannot be shown as the other."""
    star, shares = summed()
    with pytest.raises(ShareError):
        read_inner_share(shares[0].document, AGREED, context=PARENT, group=inner_group())
    proposed, _ = star.agree()
    with pytest.raises(ShareError):
        verify_share(given().document, bytes(SIZE), proposed, context=CHILD, group=star.group)


# Seeds sealed again to a replacing seat


@dataclasses.dataclass(frozen=True)
class Resealed:
    """An upload whose seeds are sealed again to member 5, who takes column 0 over."""

    upload: UploadPackage
    document: dict[str, Any]
    box: bytes
    context: RoundContext
    group: Group

    def but(self, form: str = RESEAL_KIND, signer: int = 1, **changes: Any) -> "Resealed":
        """Return it with its payload changed and signed again."""
        payload = self.document["payload"] | changes
        return dataclasses.replace(self, document=member_signer(signer).sign(form, payload))


def resealed() -> Resealed:
    """Return a true resealing of member 1's upload."""
    star = make_star(3, 1, context=CHILD)
    upload = package(star, 1, ring_vector(CHILD, 1))
    new = make_group(6, 1).seats[5]
    group = dataclasses.replace(star.group, seats=(new, *star.group.seats[1:]))
    document, box = reseal(upload.seeds, upload.document, signer=member_signer(1), column=0, context=CHILD, group=group)
    return Resealed(upload=upload, document=document, box=box, context=CHILD, group=group)


def accept(found: Resealed, header: dict[str, Any] | None = None) -> tuple[bytes, ...]:
    """Let the replacing seat take what it was sent."""
    members = {member_id(number): member_signer(number).public_key for number in range(6)}
    place = {"column": 0, "context": found.context, "group": found.group}
    taken = accept_reseal(found.document, header or found.upload.document, members=members, **place)
    return open_seeds(taken.header, found.box, key=member_sealing_key(5), resealed=taken.box, **place)


def lying(found: Resealed) -> Resealed:
    """Return a resealing of other seeds than the committed ones, by their own contributor."""
    info = box_info(found.context.digest, member_id(1), member_id(5))
    box = seal(bytes(64), found.group.seats[0].sealing_key, info)
    seat = {"seat": member_id(5), "column": 0}
    document = sign_reseal(member_signer(1), found.upload.document, box=box, **seat)
    return dataclasses.replace(found, document=document, box=box)


RESEALS: dict[str, tuple[Callable[[Resealed], Resealed], type[SecureAggregationError]]] = {
    "for another seat": (lambda r: r.but(seat=member_id(4)), ReplacementError),
    "for another column": (lambda r: r.but(column=1), ReplacementError),
    "of another upload": (lambda r: r.but(upload="ab" * 32), ReplacementError),
    "of another round": (lambda r: r.but(context="ab" * 32), ReplacementError),
    "without a box": (lambda r: r.but(box=None), ReplacementError),
    "signed by another": (lambda r: r.but(signer=2), ReplacementError),
    "signed as an upload": (lambda r: r.but(form="secagg-upload"), ReplacementError),
    "another box": (lambda r: dataclasses.replace(r, box=r.upload.boxes[0]), SecureAggregationError),
    "a box of the first seat": (
        lambda r: dataclasses.replace(r.but(box=hashlib.sha256(r.upload.boxes[0]).hexdigest()), box=r.upload.boxes[0]),
        SecureAggregationError,
    ),
    "other seeds": (lying, SeedCommitmentError),
}


@pytest.mark.parametrize("case", RESEALS)
def test_a_hostile_resealing_is_refused_by_name(case: str) -> None:
    """A replacing seat takes only the committed seeds, from their contributor, for its own column."""
    make, error = RESEALS[case]
    true = resealed()
    with pytest.raises(error) as caught:
        accept(make(true))
    assert caught.value.sender == member_id(1)
    assert len(accept(true)) == 2


def test_a_resealing_hangs_on_a_true_upload() -> None:
    """The header that comes with it is checked as any upload's is."""
    true = resealed()
    payload = true.upload.document["payload"]
    cases: list[tuple[dict[str, Any], type[SecureAggregationError]]] = [
        (member_signer(1).sign("secagg-upload", payload | {"context": PARENT.document()}), ContextMismatchError),
        (member_signer(2).sign("secagg-upload", payload), HeaderError),
        (member_signer(9).sign("secagg-upload", payload | {"participant": member_id(9)}), UnknownContributorError),
    ]
    for header, error in cases:
        with pytest.raises(error):
            accept(true, header)
