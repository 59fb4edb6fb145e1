"""An inner group: each seat adds the shares of its own column, and hands the sum up.

Shares of a group add up to the group's sum, whatever the group is; so the shares of several groups, added column by
column, are shares of all their sums together. What is agreed on is which signed shares of which children are added.
Seats of an inner group do not stand in for each other: a silent one is replaced, and the children's seats, which keep
their share until the round is over, send it again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import SetError, ShareError
from learning.secagg.packing import Bytes, RingVector, pack, reduce, ring_dtype, unpack, vector_digest
from learning.secagg.sets import ContributorSet, check_size, verify_quorum
from learning.secagg.shares import KIND as SHARE_KIND
from learning.secagg.shares import Share, check_share_bytes
from policies.canonical import CanonicalFormError, digest
from policies.signing import SignatureError, Signer, verify

KIND = "secagg-inner-share"
_KINDS = (SHARE_KIND, KIND)

Cover = tuple[tuple[int, str], ...]
"""The shares that make up one child's sum: (column, digest of the signed header), ascending."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerSet:
    """W: the children of an inner group that are added up, each with the shares that cover it, sorted by child."""

    covers: tuple[tuple[str, Cover], ...]

    @classmethod
    def of(cls, covers: Mapping[str, Iterable[tuple[int, str]]]) -> Self:
        """Return the set of ``covers`` (child -> its shares)."""
        return cls(covers=tuple((child, tuple(sorted(cover))) for child, cover in sorted(covers.items())))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SetError: not a sorted list of distinct children with sorted lists of distinct shares.
        """
        if not isinstance(value, list) or not all(_is_cover(item) for item in value):
            raise SetError("an inner set is a list of [child, [[column, share], ...]]")
        found = cls(covers=tuple((item[0], tuple((pair[0], pair[1]) for pair in item[1])) for item in value))
        if cls.of(dict(found.covers)) != found or len(dict(found.covers)) != len(found.covers):
            raise SetError("an inner set is sorted and names nothing twice")
        if any(len(dict.fromkeys(cover)) != len(cover) for _, cover in found.covers):
            raise SetError("an inner set is sorted and names nothing twice")
        return found

    def to_json(self) -> list[Any]:
        """Return the JSON value that proposals carry."""
        return [[child, [list(pair) for pair in cover]] for child, cover in self.covers]

    @property
    def children(self) -> tuple[str, ...]:
        """The children's names."""
        return tuple(child for child, _ in self.covers)

    def as_set(self) -> ContributorSet:
        """Return the set that inner seats sign: child -> digest of its list of shares."""
        return ContributorSet.of({child: digest([list(pair) for pair in cover]) for child, cover in self.covers})

    def listed(self, column: int) -> tuple[str, ...]:
        """Return the digests of the shares that the seat in ``column`` adds up, in order."""
        return tuple(name for _, cover in self.covers for place, name in cover if place == column)

    def held(self, column: int, shares: Iterable[str]) -> dict[str, str]:
        """Return what a seat that holds ``shares`` (digests) can sign: child -> digest, as ``sign_set`` takes it."""
        here = set(shares)
        able = {child for child, cover in self.covers if all(n in here for place, n in cover if place == column)}
        return {child: name for child, name in self.as_set().uploads if child in able}

    def missing(self, column: int, shares: Iterable[str]) -> tuple[str, ...]:
        """Return the children of which the seat in ``column`` lacks a listed share."""
        able = self.held(column, shares)
        return tuple(child for child in self.children if child not in able)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerHeader:
    """A verified header of an inner seat's share.

    Attributes:
        column: the seat's column.
        seat: the participant that signed.
        children: digest (hex) of the set that was summed.
        vector: SHA-256 (hex) of the packed share.
        digest: SHA-256 (hex) of the signed payload; names the share.
    """

    column: int
    seat: str
    children: str
    vector: str
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChildShare:
    """What a child's seat handed up: column, digest of its signed header, digest (hex) of its bytes."""

    column: int
    seat: str
    digest: str
    vector: str


def accept_child_share(
    document: Mapping[str, Any], vector: Bytes, *, column: int, context: RoundContext, ring: Mapping[str, str]
) -> ChildShare:
    """Check a child's share that its seat in ``column`` hands up, before it is stored.

    Args:
        document: the signed header, of a leaf's or of an inner group's share.
        vector: the packed share.
        column: our column, which is the child seat's as well.
        context: the attempt in the child group.
        ring: participant id -> Ed25519 public key of everybody in the column's ring.

    Raises:
        ShareError: not signed by a member of the column, for another round or group, or other bytes.
    """
    payload = document.get("payload")
    seat = payload.get("seat") if isinstance(payload, Mapping) else None
    if not isinstance(seat, str) or seat not in ring:
        raise ShareError("a share is handed up inside its column")
    payload = _verified(document, ring[seat], seat)
    if payload.get("context") != context.digest:
        raise ShareError("its share is of another group or round", sender=seat)
    promised = payload.get("vector")
    if not isinstance(promised, str):
        raise ShareError("its share names no bytes", sender=seat)
    check_share_bytes(vector, promised, context=context, sender=seat)
    return ChildShare(column=column, seat=seat, digest=digest(payload), vector=promised)


def release_inner(
    agreed: InnerSet,
    statements: Sequence[Mapping[str, Any]],
    *,
    column: int,
    context: RoundContext,
    group: Group,
    signer: Signer,
    vectors: Callable[[str], Bytes],
) -> Share:
    """Return the sum of the listed shares of this column, signed; the same arguments give the same bytes.

    Args:
        agreed: the inner set.
        statements: the inner seats' signatures on it.
        column: this seat's column.
        context: the attempt in this group.
        group: the inner seats.
        signer: this seat's signing key.
        vectors: digest of a share's header -> its packed bytes; called once for each listed share.

    Raises:
        QuorumError: the set is not signed by a quorum.
        SetError: it names no child, or more than there are.
        VectorError: a stored share has the wrong length.
    """
    proposed = agreed.as_set()
    check_size(proposed, group)
    verify_quorum(proposed, statements, context=context, group=group)
    total = add_column([vectors(name) for name in agreed.listed(column)], context)
    data = pack(total, context.k)
    payload = {
        "context": context.digest,
        "children": digest(proposed.to_json()),
        "seat": signer.kid,
        "vector": vector_digest(data),
    }
    return Share(document=signer.sign(KIND, payload), vector=data)


def add_column(vectors: Iterable[Bytes], context: RoundContext) -> RingVector:
    """Return the sum of packed vectors in the ring, shape (d,)."""
    total = np.zeros(context.d, dtype=ring_dtype(context.k))
    for vector in vectors:
        np.add(total, unpack(vector, context.d, context.k), out=total)
    return reduce(total, context.k)


def read_inner_share(
    document: Mapping[str, Any], agreed: InnerSet, *, context: RoundContext, group: Group
) -> InnerHeader:
    """Return the header of an inner share once it is a present seat's, over ``agreed``.

    Raises:
        ShareError: anything about it is wrong; names the seat.
    """
    payload = document.get("payload")
    seat = payload.get("seat") if isinstance(payload, Mapping) else None
    column = group.seat_of(seat) if isinstance(seat, str) else None
    if column is None or not isinstance(seat, str):
        raise ShareError("a share is not a seat's")
    payload = _verified(document, group.seats[column].public_key, seat)
    expected = {"context": context.digest, "children": digest(agreed.as_set().to_json()), "seat": seat}
    if {name: payload.get(name) for name in expected} != expected or not isinstance(payload.get("vector"), str):
        raise ShareError("its share is over another set or round", sender=seat)
    return InnerHeader(
        column=column,
        seat=seat,
        children=expected["children"],
        vector=payload["vector"],
        digest=digest(payload),
    )


def add_inner_shares(
    shares: Iterable[tuple[InnerHeader, Callable[[], Bytes]]], *, context: RoundContext, group: Group
) -> RingVector:
    """Return the sum that one share per column of an inner group makes, shape (d,).

    Raises:
        ShareError: not exactly one share of each column.
    """
    found = list(shares)
    if sorted(header.column for header, _ in found) != list(range(len(group.seats))):
        raise ShareError("an inner group's sum needs one share of each column")
    return add_column((load() for _, load in found), context)


def _verified(document: Mapping[str, Any], key: str, seat: str) -> dict[str, Any]:
    for kind in _KINDS:
        try:
            return verify(kind, document, key)
        except SignatureError:
            continue
        except CanonicalFormError as error:
            raise ShareError("its share is not signed", sender=seat) from error
    raise ShareError("its share is not signed", sender=seat)


def _is_cover(item: object) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 2  # noqa: PLR2004
        and isinstance(item[0], str)
        and isinstance(item[1], list)
        and all(
            isinstance(pair, list) and len(pair) == 2 and type(pair[0]) is int and isinstance(pair[1], str)  # noqa: PLR2004
            for pair in item[1]
        )
    )
