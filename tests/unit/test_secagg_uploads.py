"""What contributors and seats refuse about an upload, one test each, with the sender named."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest

from learning.secagg.contributor import UploadPackage, prepare_clear
from learning.secagg.errors import (
    BoxError,
    ContextMismatchError,
    DuplicateUploadError,
    HeaderError,
    ParameterError,
    SeedCommitmentError,
    UnknownContributorError,
    VectorError,
)
from learning.secagg.header import KIND as UPLOAD_KIND
from learning.secagg.keys import box_info, seal
from learning.secagg.packing import vector_digest
from learning.secagg.seat import accept_vector, keep_seeds, kept_seeds
from tests.support.secagg_star import (
    Star,
    make_context,
    make_star,
    member_id,
    member_sealing_key,
    member_signer,
    package,
    ring_vector,
)

SECRET = bytes(range(32))


def star_with(uploads: int, m: int = 3, t: int = 1, **changes: Any) -> Star:
    """Return a star in which the first ``uploads`` members have uploaded."""
    star = make_star(m, t, context=make_context(**changes), members=max(uploads, m))
    for number in range(uploads):
        star.upload(package(star, number, ring_vector(star.context, number)))
    return star


def forged(found: UploadPackage, number: int, **changes: Any) -> UploadPackage:
    """Return the package with some header fields changed and signed again by its contributor."""
    payload = found.document["payload"] | changes
    return dataclasses.replace(found, document=member_signer(number).sign(UPLOAD_KIND, payload))


# The contributor


def test_a_vector_of_another_shape_word_or_mode_is_not_masked():
    """The vector must be the context's."""
    star = make_star(3, 1, context=make_context())
    for wrong in (np.zeros(49, dtype="<u4"), np.zeros(50, dtype="<u8"), np.zeros((5, 10), dtype="<u4")):
        with pytest.raises(ParameterError):
            package(star, 0, wrong)
    clear = make_context(aggregation="clear")
    with pytest.raises(ParameterError):
        package(star, 0, ring_vector(clear, 0), context=clear)
    with pytest.raises(ParameterError):
        prepare_clear(ring_vector(star.context, 0), context=star.context, signer=member_signer(0), contributor="x")
    with pytest.raises(ParameterError):
        package(star, 0, ring_vector(star.context, 0), secret=b"short")


def test_a_secret_makes_the_masked_vector_repeatable_but_never_for_another_vector():
    """The same vector gives the same bytes; a changed one shares no mask with it."""
    star = make_star(3, 1, context=make_context())
    vector = ring_vector(star.context, 0)
    first = package(star, 0, vector, secret=SECRET)
    assert bytes(package(star, 0, vector, secret=SECRET).vector) == bytes(first.vector)
    changed = vector.copy()
    changed[0] += 1
    other = np.frombuffer(package(star, 0, changed, secret=SECRET).vector, dtype="<u4")
    assert not np.array_equal(other - np.frombuffer(first.vector, dtype="<u4"), changed - vector)
    assert bytes(package(star, 0, vector).vector) != bytes(package(star, 0, vector).vector)


def test_masked_vectors_are_uniform():
    """Chi-square over the bytes of y, for a constant x: 255 degrees of freedom, limit at about 1e-5."""
    context = make_context(d=200_000)
    star = make_star(5, 2, context=context)
    y = package(star, 0, np.full(context.d, 7, dtype="<u4"), secret=SECRET).vector
    counts = np.bincount(np.frombuffer(y, dtype=np.uint8), minlength=256)
    expected = 4 * context.d / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 360


def test_shares_of_all_but_one_seat_are_uniform():
    """What a seat gives away alone says nothing: chi-square over its share."""
    star = star_with(3, d=100_000)
    proposed, statements = star.agree()
    star.release(0, proposed, statements)
    counts = np.bincount(np.frombuffer(star.shares[0][1], dtype=np.uint8), minlength=256)
    expected = 4 * star.context.d / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 360


# The upload


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"round": 2}, "round"),
        ({"attempt": 2}, "attempt"),
        ({"job": "urn:uuid:job-2"}, "job"),
        ({"plan": "ab" * 32}, "plan"),
        ({"model": "ab" * 32}, "model"),
        ({"manifest": "ab" * 32}, "manifest"),
        ({"group": "1"}, "group"),
        ({"k": 24}, "k"),
        ({"d": 51}, "d"),
    ],
)
def test_an_upload_for_another_context_is_refused(changes, field):
    """A replay, another model, or a wrong k or d: the field is named."""
    star = make_star(3, 1, context=make_context())
    other = make_context(**changes)
    found = package(star, 1, ring_vector(other, 1), context=other)
    with pytest.raises(ContextMismatchError, match=field) as caught:
        star.upload(found)
    assert caught.value.sender == member_id(1)


def test_a_clear_upload_is_not_taken_for_a_masked_one():
    """A seat never stores a plain vector."""
    star = make_star(3, 1, context=make_context())
    clear = make_context(aggregation="clear")
    found = prepare_clear(ring_vector(clear, 1), context=clear, signer=member_signer(1), contributor=member_id(1))
    with pytest.raises(ContextMismatchError, match="aggregation"):
        star.upload(dataclasses.replace(found, boxes=(b"",) * 3))


def test_a_header_changed_on_the_way_is_refused():
    """The signature covers every field."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    found.document["payload"]["vector"] = "blake3:" + "ab" * 32
    with pytest.raises(HeaderError) as caught:
        star.upload(found)
    assert caught.value.sender == member_id(1)


@pytest.mark.parametrize("payload", [None, [], {}, {"participant": 3}])
def test_a_header_without_a_participant_is_refused(payload):
    """There is nobody to blame but the transport."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    with pytest.raises(HeaderError):
        star.upload(dataclasses.replace(found, document={"payload": payload}))


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"seeds": []},
        {"seeds": "abc"},
        {"boxes": ["ab" * 32]},
        {"vector": "ab" * 32},
        {"vector": "blake3:" + "AB" * 32},
        {"vector": "sha256:" + "ab" * 32},
        {"vector": 7},
        {"seeds": ["ab" * 32, 7, "ab" * 32]},
        {"boxes": ["ab" * 31, "ab" * 33, "ab" * 32]},
        {"boxes": ["ab" * 32, "ab" * 32, "ab" * 31 + "a\n"]},
        {"context": None},
        {"context": {}},
    ],
)
def test_a_malformed_header_is_refused_even_when_signed(changes):
    """Fields, counts and digests are exactly as described."""
    star = make_star(3, 1, context=make_context())
    found = forged(package(star, 1, ring_vector(star.context, 1)), 1, **changes)
    with pytest.raises(HeaderError):
        star.upload(found)


def test_a_context_of_other_types_is_refused():
    """True is not 1."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    context = found.document["payload"]["context"] | {"round": True}
    with pytest.raises(ContextMismatchError):
        star.upload(forged(found, 1, context=context))


def test_a_stranger_and_a_borrowed_name_are_refused():
    """Only members upload, and only for themselves and their own parts."""
    star = make_star(3, 1, context=make_context())
    vector = ring_vector(star.context, 1)
    with pytest.raises(UnknownContributorError):
        star.upload(package(star, 9, vector, signer=member_signer(9), contributor=member_id(9)))
    with pytest.raises(UnknownContributorError):
        star.upload(package(star, 1, vector, contributor=member_id(2)))
    with pytest.raises(UnknownContributorError):
        star.upload(package(star, 1, vector, contributor=member_id(1) + "0"))


def test_a_second_upload_is_refused_and_a_repeat_is_not():
    """The same bytes again are the same upload; other bytes are a second one."""
    star = make_star(3, 1, context=make_context())
    vector = ring_vector(star.context, 1)
    first = package(star, 1, vector)
    star.upload(first)
    star.upload(first)
    with pytest.raises(DuplicateUploadError) as caught:
        star.upload(package(star, 1, vector))
    assert caught.value.sender == member_id(1)


def test_equivocated_seeds_are_refused():
    """A box whose seeds are not the committed ones names its sender."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    info = box_info(star.context.digest, member_id(1), member_id(0))
    box = seal(bytes(64), star.group.seats[0].sealing_key, info)
    digests = [hashlib.sha256(box).hexdigest(), *found.document["payload"]["boxes"][1:]]
    lying = dataclasses.replace(forged(found, 1, boxes=digests), boxes=(box, *found.boxes[1:]))
    with pytest.raises(SeedCommitmentError) as caught:
        star.upload(lying)
    assert caught.value.sender == member_id(1)


@pytest.mark.parametrize("size", [0, 32, 96])
def test_a_box_with_too_few_or_too_many_seeds_is_refused(size):
    """A box holds exactly the seat's seeds."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    info = box_info(star.context.digest, member_id(1), member_id(0))
    box = seal(bytes(size), star.group.seats[0].sealing_key, info)
    digests = [hashlib.sha256(box).hexdigest(), *found.document["payload"]["boxes"][1:]]
    with pytest.raises(BoxError):
        star.upload(dataclasses.replace(forged(found, 1, boxes=digests), boxes=(box, *found.boxes[1:])))


def test_a_box_swapped_on_the_way_or_sealed_to_another_is_refused():
    """The transport and the contributor can be told apart."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    with pytest.raises(BoxError, match="not the one in the header"):
        star.upload(dataclasses.replace(found, boxes=found.boxes[::-1]))
    digests = found.document["payload"]["boxes"][::-1]
    with pytest.raises(BoxError, match="does not open"):
        star.upload(dataclasses.replace(forged(found, 1, boxes=digests), boxes=found.boxes[::-1]))


@pytest.mark.parametrize("place", [0, 12, -1])
def test_kept_seeds_open_for_their_seat_and_upload_only(place):
    """What a seat stores of a box is lost with its key, and no row can be put in another's place or be changed."""
    star = make_star(3, 1, context=make_context())
    first, second = (package(star, number, ring_vector(star.context, number)) for number in (1, 2))
    star.upload(first)
    star.upload(second)
    kept, header = star.rows[0].kept[member_id(1)], star.rows[0].headers[member_id(1)]
    key, group = member_sealing_key(0), star.group
    seeds = kept_seeds(kept, header, column=0, key=key, group=group)
    assert seeds == tuple(first.seeds[index] for index in group.table.held_by(0))
    assert kept != keep_seeds(seeds, header, column=0, key=key)
    changed = bytearray(kept)
    changed[place] ^= 1
    for data, of, column, opener in (
        (bytes(changed), header, 0, key),
        (kept[:11], header, 0, key),
        (kept, star.rows[0].headers[member_id(2)], 0, key),
        (kept, header, 1, key),
        (kept, header, 0, member_sealing_key(1)),
        (first.boxes[0], header, 0, key),
    ):
        with pytest.raises(BoxError) as caught:
            kept_seeds(data, of, column=column, key=opener, group=group)
        assert caught.value.sender == of.contributor


@pytest.mark.parametrize(
    "change",
    [lambda y: y[:-1], lambda y: y + b"\0", lambda y: b"\1" + y[1:], lambda y: b""],
    ids=["truncated", "over-long", "changed", "empty"],
)
def test_truncated_over_long_and_changed_vectors_are_refused(change):
    """A stored vector is the promised bytes."""
    star = make_star(3, 1, context=make_context())
    found = package(star, 1, ring_vector(star.context, 1))
    star.upload(found)
    header = star.rows[0].headers[member_id(1)]
    with pytest.raises(VectorError) as caught:
        accept_vector(header, change(bytes(found.vector)), star.context)
    assert caught.value.sender == member_id(1)


def test_set_spare_bits_are_refused():
    """A vector of 9-bit values has one encoding."""
    context = make_context(k=9, d=5)
    star = make_star(3, 1, context=context)
    found = package(star, 1, ring_vector(context, 1))
    data = bytes(found.vector[:-1]) + bytes([found.vector[-1] | 0x80])
    found = forged(found, 1, vector=vector_digest(data))
    with pytest.raises(VectorError, match="spare bits"):
        star.upload(dataclasses.replace(found, vector=data), to=star.group.carriers(context, member_id(1)))
