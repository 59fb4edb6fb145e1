"""The committed vectors, and a contributor written from the description alone."""

import base64
import hashlib
import json

import numpy as np
import pytest

from learning.secagg.context import RoundContext
from learning.secagg.errors import VectorError
from learning.secagg.header import seed_commitment
from learning.secagg.masking import accumulate
from learning.secagg.packing import pack, reduce, ring_dtype, unpack, vector_digest
from learning.secagg.seeds import threshold_table
from tests.support import secagg_plain
from tests.support.secagg_star import (
    clear_sum,
    make_context,
    make_star,
    member_id,
    package,
    ring_vector,
)
from tests.vectors.make_secagg import FILE, vectors

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_file_is_what_its_maker_writes():
    """Provenance: the recorded vectors come from the plain description."""
    assert vectors() == RECORDED


@pytest.mark.parametrize("case", RECORDED["good"], ids=lambda case: f"{case['seats']}-{case['threshold']}")
def test_good_vectors(case):
    """Context digest, holders, commitments, packing and masked vector agree."""
    context = RoundContext(**case["context"])
    assert context.digest == case["context_digest"]
    table = threshold_table(case["seats"], case["threshold"])
    assert [sorted(seats) for seats in table.holders] == case["holders"]
    seeds = [bytes.fromhex(seed) for seed in case["seeds"]]
    assert [seed_commitment(context, index, seed) for index, seed in enumerate(seeds)] == case["commitments"]
    vector = np.array([int(value) for value in case["x"]], dtype=ring_dtype(context.k))
    assert bytes(pack(vector, context.k)).hex() == case["x_packed"]
    accumulate(vector, ((seed, context.mask_info(index)) for index, seed in enumerate(seeds)))
    packed = pack(reduce(vector, context.k), context.k)
    assert bytes(packed).hex() == case["y_packed"]
    assert vector_digest(packed) == case["y_digest"]


@pytest.mark.parametrize("case", RECORDED["bad"], ids=lambda case: case["why"])
def test_bad_vectors(case):
    """Each is refused."""
    with pytest.raises(VectorError):
        unpack(bytes.fromhex(case["packed"]), case["d"], case["k"])


@pytest.mark.parametrize(("m", "t", "k"), [(3, 1, 32), (5, 2, 20), (4, 2, 64)])
def test_a_contributor_in_plain_python_takes_part(m, t, k):
    """A node that shares no code with us uploads to the group, and the sum is right."""
    context = make_context(k=k)
    star = make_star(m, t, context=context)
    vectors_in = {member_id(number): ring_vector(context, number) for number in range(3)}
    for number in (0, 1):
        star.upload(package(star, number, vectors_in[member_id(number)]))
    seats = [(seat.participant, base64.urlsafe_b64decode(seat.sealing_key + "=")) for seat in star.group.seats]
    document, boxes, y = secagg_plain.upload(
        [int(value) for value in vectors_in[member_id(2)]],
        context.document(),
        seats,
        t,
        member_id(2),
        hashlib.sha256(b"signing key 2").digest(),
        [hashlib.sha256(bytes([index])).digest() for index in range(len(star.group.table))],
    )
    mine = package(star, 2, vectors_in[member_id(2)])
    star.upload(type(mine)(document=document, boxes=tuple(boxes), vector=y))
    proposed, statements = star.agree()
    for column in range(m):
        star.release(column, proposed, statements)
    assert np.array_equal(star.finish(proposed), clear_sum(vectors_in, context))
