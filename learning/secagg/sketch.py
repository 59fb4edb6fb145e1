"""Who gave a wrong share: linear sketches under a coin that is thrown when every share is committed to.

A sketch adds each coordinate, with a random sign, to one of 1,024 random counters, four times over, in the ring. It is
linear, so the sketch of a seat's share must be that of the vectors it carries minus those of the masks it expands; the
first are stored by other seats as well, the second can be expanded by every co-holder. Buckets and signs come from
AES-CTR of the joint coin, which nobody knows before all shares are signed.

An error e != 0 leaves no trace in one repetition only if all counters vanish. Fix every draw but the bucket of one
changed coordinate: then the others' counters must be zero but for one, and the coordinate must fall into that one, which
has probability 1/1,024 at most. Four repetitions draw independently: 2^-40.

HAZARD: it shows functionals of sums over the whole agreed set to whoever reads it, never of one contributor.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import EvidenceError, ShareError
from learning.secagg.masking import accumulate, hkdf, key_stream
from learning.secagg.packing import Bytes, RingVector, pack, reduce, ring_dtype, unpack
from learning.secagg.sets import ContributorSet
from policies.canonical import canonical_json, digest
from policies.signing import SignatureError, Signer, decode, encode, verify

KIND = "secagg-sketch"
REPETITIONS, BUCKETS = 4, 1024
SIZE = REPETITIONS * BUCKETS
_BLOCK = 1 << 14
_FIELD_BITS = 11


def joint_coin(context: RoundContext, shares: Iterable[str], *, beacon: str, nonce: str) -> bytes:
    """Return the 32 bytes that decide buckets and signs.

    Args:
        context: the attempt.
        shares: digests of all signed share headers; each fixes its bytes.
        beacon: the job's beacon, hex.
        nonce: drawn by the collector when it has all of them, so that no seat could compute the coin before.
    """
    value = {"context": context.digest, "shares": sorted(shares), "beacon": beacon, "nonce": nonce}
    return hashlib.sha256(b"orchard/secagg/coin/1\0" + canonical_json(value)).digest()


def sketch(vector: RingVector, coin: bytes, k: int) -> RingVector:
    """Return the 4 x 1,024 counters of ``vector`` (shape (d,)), flat, in 0..2^k - 1."""
    word = ring_dtype(k)
    counters = np.zeros((REPETITIONS, BUCKETS), dtype=word)
    stream = key_stream(hkdf(coin, b"orchard/secagg/sketch/1"), b"orchard/secagg/sketch/1")
    buffer = bytearray(8 * _BLOCK + 16)
    draws: Any = np.frombuffer(buffer, dtype="<u8", count=_BLOCK)
    zeros = bytes(8 * _BLOCK)
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]
        stream.update_into(zeros[: 8 * len(block)], buffer)
        for row in range(REPETITIONS):
            bits = (draws[: len(block)] >> np.uint64(row * _FIELD_BITS)) & np.uint64((1 << _FIELD_BITS) - 1)
            minus = (bits >> np.uint64(10)).astype(np.bool_)
            signed = np.where(minus, word.type(0) - block, block)
            np.add.at(counters[row], (bits & np.uint64(BUCKETS - 1)).astype(np.intp), signed)
    return reduce(counters.reshape(-1), k)


def sketch_of_masks(
    index: int, names: Sequence[str], seeds: Mapping[str, bytes], *, context: RoundContext, coin: bytes
) -> RingVector:
    """Return the sketch of one seed's masks, summed over the contributors ``names`` (contributor -> its seed)."""
    total = np.zeros(context.d, dtype=ring_dtype(context.k))
    info = context.mask_info(index)
    accumulate(total, ((seeds[name], info) for name in names))
    return sketch(reduce(total, context.k), coin, context.k)


def sketch_of_vectors(vectors: Iterable[Bytes], *, context: RoundContext, coin: bytes) -> RingVector:
    """Return the sketch of the sum of packed vectors."""
    total = np.zeros(context.d, dtype=ring_dtype(context.k))
    for vector in vectors:
        np.add(total, unpack(vector, context.d, context.k), out=total)
    return sketch(reduce(total, context.k), coin, context.k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """A seat's signed word about one part of another's share.

    Attributes:
        seat: the participant that signed.
        part: ``mask <index>`` or ``vectors <column>`` (what that column carries while every seat lives).
        values: the sketch.
        document: the signed document.
    """

    seat: str
    part: str
    values: RingVector = dataclasses.field(repr=False)
    document: dict[str, Any] = dataclasses.field(repr=False)


def sign_answer(
    signer: Signer, proposed: ContributorSet, part: str, values: RingVector, *, context: RoundContext, coin: bytes
) -> dict[str, Any]:
    """Return a seat's signed sketch of one part; ``part`` as in :class:`Answer`."""
    payload = {
        "context": context.digest,
        "uploads": digest(proposed.to_json()),
        "seat": signer.kid,
        "coin": encode(coin),
        "part": part,
        "sketch": encode(bytes(pack(values, context.k))),
    }
    return signer.sign(KIND, payload)


def read_answer(
    document: Mapping[str, Any], *, context: RoundContext, uploads: str, coin: bytes, keys: Mapping[str, str]
) -> Answer:
    """Return what a member signed about this set under this coin.

    Raises:
        EvidenceError: anything about it is wrong.
    """
    payload = document.get("payload")
    seat = payload.get("seat") if isinstance(payload, Mapping) else None
    if not isinstance(seat, str) or seat not in keys:
        raise EvidenceError("a sketch is not a member's")
    try:
        payload = verify(KIND, document, keys[seat])
        expected = {"context": context.digest, "uploads": uploads, "coin": encode(coin)}
        if {name: payload.get(name) for name in expected} != expected:
            raise EvidenceError("its sketch is of another set or coin", sender=seat)
        values = unpack(decode(payload["sketch"]), SIZE, context.k)
        return Answer(seat=seat, part=str(payload["part"]), values=values, document=dict(document))
    except (SignatureError, KeyError, TypeError, ValueError) as error:
        raise EvidenceError("its sketch is malformed or not signed", sender=seat) from error


def parts_of(column: int, group: Group) -> tuple[str, ...]:
    """Return the parts that make up the first share of a column while no seat is lost."""
    own = (index for index in range(len(group.table)) if group.table.worker(index) == column)
    return (f"vectors {column}", *(f"mask {index}" for index in own))


def expected_sketch(
    column: int, answers: Iterable[Answer], *, group: Group, context: RoundContext
) -> tuple[RingVector, int]:
    """Return what the sketch of a column's share must be by the others' word, and by how many for each part.

    Raises:
        EvidenceError: a part has no answer by another seat, or two answers about it differ.
    """
    accused = group.seats[column].participant
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.seat != accused:
            found.setdefault(answer.part, []).append(answer)
    total = np.zeros(SIZE, dtype=ring_dtype(context.k))
    witnesses = len(group.seats)
    for part in parts_of(column, group):
        said = found.get(part, [])
        if not said:
            raise EvidenceError(f"no other seat has answered for {part}")
        if any(not np.array_equal(said[0].values, other.values) for other in said[1:]):
            raise EvidenceError(f"the other seats contradict each other about {part}")
        operation = np.add if part.startswith("vectors") else np.subtract
        operation(total, said[0].values, out=total)
        witnesses = min(witnesses, len({answer.seat for answer in said}))
    return reduce(total, context.k), witnesses


def check_shares(
    shares: Mapping[int, Bytes], answers: Sequence[Answer], *, group: Group, context: RoundContext, coin: bytes
) -> dict[int, bool]:
    """Say of each column whether its first share (packed) is what the other seats say it must be.

    Raises:
        EvidenceError: some part has no answer, or two that differ.
        ShareError: a share has the wrong length.
    """
    found = {}
    for column, data in shares.items():
        if len(data) != context.vector_bytes:
            raise ShareError("a share has the wrong length", sender=group.seats[column].participant)
        wanted, _ = expected_sketch(column, answers, group=group, context=context)
        found[column] = np.array_equal(sketch(unpack(data, context.d, context.k), coin, context.k), wanted)
    return found
