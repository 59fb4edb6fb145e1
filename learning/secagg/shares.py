"""A seat's share V_a: raw packed bytes, and a signed header that ties them to one set."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import ShareError
from learning.secagg.packing import Bytes, vector_digest
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
        seat: the participant that signed.
        lost: seats that were declared lost when the share was made.
        blank: seats that had been replaced in the round by then, and so carry no vectors.
        released: ``lost`` of the seat's share before this one, None when this is its first.
        released_blank: ``blank`` of the seat's share before this one.
        vector: SHA-256 (hex) of the packed share.
        digest: SHA-256 (hex) of the signed payload; names the share.
    """

    column: int
    seat: str
    lost: frozenset[int]
    blank: frozenset[int]
    released: frozenset[int] | None
    released_blank: frozenset[int]
    vector: str
    digest: str


def sign_share(
    signer: Signer,
    proposed: ContributorSet,
    vector: Bytes,
    *,
    context: RoundContext,
    lost: frozenset[int],
    released: frozenset[int] | None,
    blank: frozenset[int] = frozenset(),
    released_blank: frozenset[int] = frozenset(),
) -> Share:
    """Return ``vector`` with its signed header; what concerns replaced seats is left out while there are none."""
    payload = {
        "context": context.digest,
        "uploads": digest(proposed.to_json()),
        "seat": signer.kid,
        "lost": sorted(lost),
        "released": None if released is None else sorted(released),
        "vector": vector_digest(vector),
    }
    if blank:
        payload |= {"blank": sorted(blank), "released_blank": sorted(released_blank)}
    return Share(document=signer.sign(KIND, payload), vector=vector)


def read_share(
    document: Mapping[str, Any], proposed: ContributorSet, *, context: RoundContext, group: Group
) -> ShareHeader:
    """Return the header of a share once it is a seat's, present or at the round's opening, and over ``proposed``.

    Raises:
        ShareError: anything about it is wrong; names the seat.
    """
    payload = document.get("payload")
    name = payload.get("seat") if isinstance(payload, Mapping) else None
    column, key = _place(name, group)
    try:
        payload = verify(KIND, document, key)
    except (SignatureError, CanonicalFormError) as error:
        raise ShareError("its share is not signed", sender=name) from error
    expected = {"context": context.digest, "uploads": digest(proposed.to_json()), "seat": name}
    if {field: payload.get(field) for field in expected} != expected:
        raise ShareError("its share is over another set or round", sender=name)
    return parse_share(payload, column=column, seats=len(group.seats))


def parse_share(payload: Mapping[str, Any], *, column: int, seats: int) -> ShareHeader:
    """Return the header in a payload whose signature, seat and context have been checked.

    Raises:
        ShareError: it names seats that do not exist, or no vector.
    """
    seat = str(payload["seat"])
    if not isinstance(payload.get("vector"), str):
        raise ShareError("its share names no bytes", sender=seat)
    return ShareHeader(
        column=column,
        seat=seat,
        lost=_columns(payload.get("lost"), seats, seat),
        blank=_columns(payload.get("blank", []), seats, seat),
        released=None if payload.get("released") is None else _columns(payload["released"], seats, seat),
        released_blank=_columns(payload.get("released_blank", []), seats, seat),
        vector=payload["vector"],
        digest=digest(payload),
    )


def check_share_bytes(vector: Bytes, promised: str, *, context: RoundContext, sender: str) -> None:
    """Refuse bytes that are not those of the signed header.

    Raises:
        ShareError: another length or another digest.
    """
    if len(vector) != context.vector_bytes or vector_digest(vector) != promised:
        raise ShareError("its share is not the signed bytes", sender=sender)


def verify_share(
    document: Mapping[str, Any], vector: Bytes, proposed: ContributorSet, *, context: RoundContext, group: Group
) -> ShareHeader:
    """Return the header of a share once it is a seat's, over ``proposed``, and the bytes are the signed ones.

    Raises:
        ShareError: anything about it is wrong; names the seat.
    """
    header = read_share(document, proposed, context=context, group=group)
    check_share_bytes(vector, header.vector, context=context, sender=header.seat)
    return header


def _place(name: object, group: Group) -> tuple[int, str]:
    if isinstance(name, str):
        for seats in (group.seats, group.voices):
            for column, seat in enumerate(seats):
                if seat.participant == name:
                    return column, seat.public_key
    raise ShareError("a share is not a seat's")


def _columns(value: object, seats: int, sender: str) -> frozenset[int]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < seats for item in value):
        raise ShareError("its share names seats that do not exist", sender=sender)
    return frozenset(value)
