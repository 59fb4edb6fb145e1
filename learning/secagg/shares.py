"""A seat's share V_a: raw packed bytes, and a signed header that ties them to one set."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import ShareError
from learning.secagg.packing import Bytes
from learning.secagg.sets import ContributorSet
from policies.canonical import CanonicalFormError, digest
from policies.signing import SignatureError, Signer, verify

KIND = "secagg-share"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """What a seat sends to the collector.

    Attributes:
        document: the signed header, JSON.
        vector: the packed share.
    """

    document: dict[str, Any]
    vector: Bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareHeader:
    """A verified share header.

    Attributes:
        column: the seat's column.
        lost: seats that were declared lost when the share was made.
        released: ``lost`` of the seat's share before this one, None when this is its first.
        vector: SHA-256 (hex) of the packed share.
    """

    column: int
    lost: frozenset[int]
    released: frozenset[int] | None
    vector: str


def sign_share(
    signer: Signer,
    proposed: ContributorSet,
    vector: Bytes,
    *,
    context: RoundContext,
    lost: frozenset[int],
    released: frozenset[int] | None,
) -> Share:
    """Return ``vector`` with its signed header."""
    payload = {
        "context": context.digest,
        "uploads": digest(proposed.to_json()),
        "seat": signer.kid,
        "lost": sorted(lost),
        "released": None if released is None else sorted(released),
        "vector": hashlib.sha256(vector).hexdigest(),
    }
    return Share(document=signer.sign(KIND, payload), vector=vector)


def verify_share(
    document: Mapping[str, Any], vector: Bytes, proposed: ContributorSet, *, context: RoundContext, group: Group
) -> ShareHeader:
    """Return the header of a share once it is a seat's, over ``proposed``, and the bytes are the signed ones.

    Raises:
        ShareError: anything about it is wrong; names the seat.
    """
    payload = document.get("payload")
    seat = payload.get("seat") if isinstance(payload, Mapping) else None
    column = group.seat_of(seat) if isinstance(seat, str) else None
    if column is None or seat is None:
        raise ShareError("a share is not a seat's")
    try:
        payload = verify(KIND, document, group.seats[column].public_key)
    except (SignatureError, CanonicalFormError) as error:
        raise ShareError("its share is not signed", sender=seat) from error
    expected = {"context": context.digest, "uploads": digest(proposed.to_json()), "seat": seat}
    if {name: payload.get(name) for name in expected} != expected:
        raise ShareError("its share is over another set or round", sender=seat)
    if len(vector) != context.vector_bytes or hashlib.sha256(vector).hexdigest() != payload.get("vector"):
        raise ShareError("its share is not the signed bytes", sender=seat)
    lost = _columns(payload.get("lost"), group, seat)
    released = None if payload.get("released") is None else _columns(payload["released"], group, seat)
    return ShareHeader(column=column, lost=lost, released=released, vector=payload["vector"])


def _columns(value: object, group: Group, seat: str) -> frozenset[int]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < len(group.seats) for item in value):
        raise ShareError("its share names seats that do not exist", sender=seat)
    return frozenset(value)
