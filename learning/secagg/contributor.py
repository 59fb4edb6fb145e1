"""The contributor: speaks once per round, with one masked vector and a few hundred bytes of sealed seeds."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import ParameterError
from learning.secagg.header import seed_commitment, sign_header
from learning.secagg.keys import box_info, seal
from learning.secagg.masking import SEED_BYTES, accumulate, hkdf
from learning.secagg.packing import Bytes, RingVector, pack, reduce, ring_dtype
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
    """

    document: dict[str, Any]
    boxes: tuple[bytes, ...]
    vector: Bytes = dataclasses.field(repr=False)


def prepare_upload(
    vector: RingVector,
    *,
    context: RoundContext,
    group: Group,
    signer: Signer,
    contributor: str,
    secret: bytes | None = None,
) -> UploadPackage:
    """Mask ``vector`` (shape (d,), from ``VectorLayout.encode``) and seal the seeds to the seats.

    Args:
        vector: the plain ring vector; it is not changed.
        context: the attempt that is open.
        group: the seats that sum.
        signer: the member's signing key; its kid is the participant id.
        contributor: the signer's kid, or ``<kid>#<part>``.
        secret: None draws fresh seeds from the operating system. 32 bytes make them from the secret, the context and
            the vector itself (as in SIV modes), so that two different vectors never share a mask.

    Raises:
        ParameterError: the vector does not fit the context.
    """
    _check(vector, context, clear=False)
    table = group.table
    seeds = _seeds(len(table), vector, context, contributor, secret)
    masked = vector.copy()
    accumulate(masked, ((seed, context.mask_info(index)) for index, seed in enumerate(seeds)))
    data = pack(reduce(masked, context.k), context.k)
    boxes = tuple(
        seal(
            b"".join(seeds[index] for index in table.held_by(column)),
            seat.sealing_key,
            box_info(context.digest, contributor, seat.participant),
        )
        for column, seat in enumerate(group.seats)
    )
    document = sign_header(
        signer,
        context,
        contributor=contributor,
        vector=hashlib.sha256(data).hexdigest(),
        seeds=tuple(seed_commitment(context, index, seed) for index, seed in enumerate(seeds)),
        boxes=tuple(hashlib.sha256(box).hexdigest() for box in boxes),
    )
    return UploadPackage(document=document, boxes=boxes, vector=data)


def prepare_clear(vector: RingVector, *, context: RoundContext, signer: Signer, contributor: str) -> UploadPackage:
    """Return the upload of ``aggregation: clear``: the same integers, signed, without masks.

    HAZARD: the collector sees this contribution. Only for contracts that allow it.

    Raises:
        ParameterError: the vector does not fit the context, or the context is not clear.
    """
    _check(vector, context, clear=True)
    data = pack(vector, context.k)
    digest = hashlib.sha256(data).hexdigest()
    document = sign_header(signer, context, contributor=contributor, vector=digest, seeds=(), boxes=())
    return UploadPackage(document=document, boxes=(), vector=data)


def _check(vector: RingVector, context: RoundContext, *, clear: bool) -> None:
    if (context.aggregation == "clear") is not clear:
        raise ParameterError(f"the round aggregates by {context.aggregation}")
    if vector.dtype != ring_dtype(context.k) or vector.shape != (context.d,):
        raise ParameterError(f"the vector must be {context.d} values of {ring_dtype(context.k)}")


def _seeds(
    count: int, vector: RingVector, context: RoundContext, contributor: str, secret: bytes | None
) -> tuple[bytes, ...]:
    if secret is None:
        material = os.urandom(count * SEED_BYTES)
    else:
        if len(secret) != SEED_BYTES:
            raise ParameterError(f"the secret has {SEED_BYTES} bytes, not {len(secret)}")
        content = hashlib.sha256(np.ascontiguousarray(vector).data).digest()
        info = b"orchard/secagg/seeds/1\0" + bytes.fromhex(context.digest) + content + contributor.encode()
        material = hkdf(secret, info, count * SEED_BYTES)
    return tuple(material[at : at + SEED_BYTES] for at in range(0, len(material), SEED_BYTES))
