"""The contributor: speaks once per round, with one masked vector and a few hundred bytes of sealed seeds."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from learning.secagg.context import Group, RoundContext, Seat
from learning.secagg.errors import ParameterError
from learning.secagg.header import seed_commitment, sign_header
from learning.secagg.keys import box_info, seal
from learning.secagg.masking import SEED_BYTES, accumulate, hkdf
from learning.secagg.packing import Bytes, RingVector, pack, reduce, ring_dtype, vector_digest
from learning.secagg.reseals import sign_reseal
from policies.signing import Signer


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadPackage:
    """Everything a contributor sends.

    HAZARD: boxes are randomised. Store the package before its first byte leaves, and send the stored one again after a
    crash: a second package for the same attempt is refused as a second upload.

    Attributes:
        document: the signed header, JSON.
        boxes: one sealed box per seat, in column order (none in clear mode).
        vector: the packed masked vector y (in clear mode: the plain vector x).
        seeds: what the boxes hold, in table order; kept until the round is over, for :func:`reseal`, then erased.
    """

    document: dict[str, Any]
    boxes: tuple[bytes, ...]
    vector: Bytes = dataclasses.field(repr=False)
    seeds: tuple[bytes, ...] = dataclasses.field(default=(), repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask:
    """The mask of one upload, drawn before its vector is known: nothing in it depends on the vector.

    HAZARD: for one vector only. The difference of two vectors under one mask is in the clear.

    Attributes:
        contributor: whose.
        context: digest (hex) of the attempt it is for.
        seeds: in table order.
        boxes: the sealed boxes, in column order.
        total: the sum of the masks, shape (d,).
    """

    contributor: str
    context: str
    seeds: tuple[bytes, ...] = dataclasses.field(repr=False)
    boxes: tuple[bytes, ...] = dataclasses.field(repr=False)
    total: RingVector = dataclasses.field(repr=False)


def draw_mask(context: RoundContext, group: Group, contributor: str, *, seeds: tuple[bytes, ...] | None = None) -> Mask:
    """Draw seeds (or take ``seeds``, in table order), expand them, and seal them to the seats.

    It may be done as soon as the attempt is open, while the model still trains.

    Raises:
        ParameterError: the wrong number of seeds, or a clear round.
    """
    drawn = _drawn(context, group, seeds)
    total = np.zeros(context.d, dtype=ring_dtype(context.k))
    accumulate(total, _streams(context, drawn))
    return Mask(
        contributor=contributor,
        context=context.digest,
        seeds=drawn,
        boxes=_seal_all(drawn, context=context, group=group, contributor=contributor),
        total=total,
    )


def prepare_upload(
    vector: RingVector,
    *,
    context: RoundContext,
    group: Group,
    signer: Signer,
    contributor: str,
    secret: bytes | None = None,
    mask: Mask | None = None,
    spend: bool = False,
) -> UploadPackage:
    """Mask ``vector`` (shape (d,), from ``VectorLayout.encode``) and seal the seeds to the seats.

    Args:
        vector: the plain ring vector; it is not changed unless it is to be spent.
        context: the attempt that is open.
        group: the seats that sum.
        signer: the member's signing key; its kid is the participant id.
        contributor: the signer's kid, or ``<kid>#<part>``.
        secret: None draws fresh seeds from the operating system. 32 bytes make them from the secret, the context and
            the vector itself (as in SIV modes), so that two different vectors never share a mask.
        mask: what :func:`draw_mask` drew for this contributor and attempt, never used before; None draws it now.
        spend: mask the vector where it lies: the package holds its memory, and the plain values are gone.

    Raises:
        ParameterError: the vector does not fit the context, or the mask is another upload's.
    """
    _check(vector, context, clear=False)
    if mask is None:
        derived = None if secret is None else _derived(len(group.table), vector, context, contributor, secret)
        seeds = _drawn(context, group, derived)
        boxes = _seal_all(seeds, context=context, group=group, contributor=contributor)
        # Onto the vector itself: memory touched for the first time is dear, and so is one more pass over it.
        masked = vector if spend else vector.copy()
        accumulate(masked, _streams(context, seeds))
    elif (mask.contributor, mask.context) != (contributor, context.digest):
        raise ParameterError("the mask was drawn for another upload")
    else:
        seeds, boxes = mask.seeds, mask.boxes
        masked = np.add(vector, mask.total, out=vector if spend else None)
    data = pack(reduce(masked, context.k), context.k)
    document = sign_header(
        signer,
        context,
        contributor=contributor,
        vector=vector_digest(data),
        seeds=tuple(seed_commitment(context, index, seed) for index, seed in enumerate(seeds)),
        boxes=tuple(hashlib.sha256(box).hexdigest() for box in boxes),
    )
    return UploadPackage(document=document, boxes=boxes, vector=data, seeds=seeds)


def reseal(
    seeds: Sequence[bytes],
    upload: Mapping[str, Any],
    *,
    column: int,
    context: RoundContext,
    group: Group,
    signer: Signer,
) -> tuple[dict[str, Any], bytes]:
    """Return (signed document, box) that give a seat which replaced another the seeds of an upload.

    The provider first checks that the seat is the next in the column's ring and that the contributor set is final; the
    vector does not travel again.

    Args:
        seeds: the upload's seeds, as its package holds them.
        upload: the upload's signed header.
        column: the column that was replaced.
        context: the attempt.
        group: the seats as they are now.
        signer: the member that signed the upload.
    """
    contributor, seat = upload["payload"]["contributor"], group.seats[column]
    box = _seal_for(seeds, seat=seat, column=column, context=context, group=group, contributor=contributor)
    return sign_reseal(signer, upload, seat=seat.participant, column=column, box=box), box


def _drawn(context: RoundContext, group: Group, seeds: tuple[bytes, ...] | None) -> tuple[bytes, ...]:
    count = len(group.table)
    if context.aggregation == "clear" or (seeds is not None and len(seeds) != count):
        raise ParameterError(f"a mask of this group has {count} seeds, and clear rounds have none")
    return seeds or tuple(os.urandom(SEED_BYTES) for _ in range(count))


def _streams(context: RoundContext, seeds: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return ((seed, context.mask_info(index)) for index, seed in enumerate(seeds))


def _seal_all(seeds: Sequence[bytes], *, context: RoundContext, group: Group, contributor: str) -> tuple[bytes, ...]:
    return tuple(
        _seal_for(seeds, seat=seat, column=column, context=context, group=group, contributor=contributor)
        for column, seat in enumerate(group.seats)
    )


def _seal_for(
    seeds: Sequence[bytes], *, seat: Seat, column: int, context: RoundContext, group: Group, contributor: str
) -> bytes:
    held = b"".join(seeds[index] for index in group.table.held_by(column))
    return seal(held, seat.sealing_key, box_info(context.digest, contributor, seat.participant))


def prepare_clear(vector: RingVector, *, context: RoundContext, signer: Signer, contributor: str) -> UploadPackage:
    """Return the upload of ``aggregation: clear``: the same integers, signed, without masks.

    HAZARD: the collector sees this contribution. Only for contracts that allow it.

    Raises:
        ParameterError: the vector does not fit the context, or the context is not clear.
    """
    _check(vector, context, clear=True)
    data = pack(vector, context.k)
    digest = vector_digest(data)
    document = sign_header(signer, context, contributor=contributor, vector=digest, seeds=(), boxes=())
    return UploadPackage(document=document, boxes=(), vector=data)


def _check(vector: RingVector, context: RoundContext, *, clear: bool) -> None:
    if (context.aggregation == "clear") is not clear:
        raise ParameterError(f"the round aggregates by {context.aggregation}")
    if vector.dtype != ring_dtype(context.k) or vector.shape != (context.d,):
        raise ParameterError(f"the vector must be {context.d} values of {ring_dtype(context.k)}")


def _derived(
    count: int, vector: RingVector, context: RoundContext, contributor: str, secret: bytes
) -> tuple[bytes, ...]:
    if len(secret) != SEED_BYTES:
        raise ParameterError(f"the secret has {SEED_BYTES} bytes, not {len(secret)}")
    content = hashlib.sha256(np.ascontiguousarray(vector).data).digest()
    info = b"orchard/secagg/seeds/1\0" + bytes.fromhex(context.digest) + content + contributor.encode()
    material = hkdf(secret, info, count * SEED_BYTES)
    return tuple(material[at : at + SEED_BYTES] for at in range(0, len(material), SEED_BYTES))
