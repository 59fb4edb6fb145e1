"""A seat: accepts uploads, and gives out one share of the sum.

Every function takes explicit values (headers, boxes, stored vectors, signed sets), so that a seat restarted after a
crash continues from its rows. A share is V_a = sum of the carried masked vectors - sum of the masks this seat expands,
both over the agreed set only; the shares of all seats add up to the plain sum, and any fewer are uniform.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import (
    BoxError,
    DuplicateUploadError,
    SecondReleaseError,
    SeedCommitmentError,
    VectorError,
)
from learning.secagg.header import UploadHeader, seed_commitment, verify_header
from learning.secagg.keys import SealingKey, box_info
from learning.secagg.masking import SEED_BYTES
from learning.secagg.packing import Bytes, pack, reduce, ring_dtype, unpack, vector_digest
from learning.secagg.sets import ContributorSet, check_size, verify_quorum
from learning.secagg.shares import Share, sign_share
from learning.secagg.work import Begun, Duties, Parts, duties, own_seeds
from policies.signing import Signer


def accept_upload(
    document: Mapping[str, Any],
    box: bytes,
    *,
    column: int,
    context: RoundContext,
    group: Group,
    members: Mapping[str, str],
    key: SealingKey,
    known: Mapping[str, str],
) -> tuple[UploadHeader, tuple[bytes, ...]]:
    """Return the verified header of one upload, and the seeds in its box, which match their commitments.

    Args:
        document: the signed header as parsed from JSON.
        box: the box sealed to this seat.
        column: this seat's column.
        context: the attempt that is open.
        group: the seats.
        members: participant id -> Ed25519 public key (base64url), from the manifest.
        key: this seat's sealing key.
        known: contributor -> header digest of what this seat has already accepted in this attempt.

    Raises:
        HeaderError: malformed or badly signed.
        UnknownContributorError: not signed by a member, or not the signer's contributor.
        ContextMismatchError: for another job, plan, model, round, attempt or ring (a replay).
        DuplicateUploadError: the contributor already sent another upload for this attempt.
        BoxError: the box is not the promised one or does not open.
        SeedCommitmentError: a seed is not the committed one.
    """
    seats = len(group.seats)
    header = verify_header(document, context, members, seeds=len(group.table), boxes=seats)
    if known.get(header.contributor, header.digest) != header.digest:
        raise DuplicateUploadError("sent a second upload for this attempt", sender=header.contributor)
    return header, open_seeds(header, box, column=column, context=context, group=group, key=key)


def open_seeds(
    header: UploadHeader,
    box: bytes,
    *,
    column: int,
    context: RoundContext,
    group: Group,
    key: SealingKey,
    resealed: str | None = None,
) -> tuple[bytes, ...]:
    """Return the seeds in ``box``, in the order of ``group.table.held_by(column)``.

    Args:
        header: the contributor's verified header.
        box: the sealed box.
        column: this seat's column.
        context: the attempt that is open.
        group: the seats.
        key: this seat's sealing key.
        resealed: digest (hex) of the box that was sealed later, to a seat that replaced another; None: the header's.

    Raises:
        BoxError: the box is not the promised one, does not open, or holds another number of seeds.
        SeedCommitmentError: a seed is not the committed one: the contributor equivocates.
    """
    if hashlib.sha256(box).hexdigest() != (resealed or header.boxes[column]):
        raise BoxError("the box is not the one in the header", sender=header.contributor)
    info = box_info(context.digest, header.contributor, group.seats[column].participant)
    try:
        plain = key.open(box, info)
    except BoxError as error:
        raise BoxError("the sealed box does not open", sender=header.contributor) from error
    held = group.table.held_by(column)
    seeds = _cut(plain, len(held), header)
    for index, seed in zip(held, seeds, strict=True):
        if seed_commitment(context, index, seed) != header.seeds[index]:
            raise SeedCommitmentError(f"seed {index} is not the committed one", sender=header.contributor)
    return seeds


def keep_seeds(seeds: Sequence[bytes], header: UploadHeader, *, column: int, key: SealingKey) -> bytes:
    """Return the seeds that :func:`open_seeds` returned, sealed with the seat's own key of the epoch, to be stored."""
    return key.keep(b"".join(seeds), _kept_name(header, column))


def kept_seeds(kept: bytes, header: UploadHeader, *, column: int, key: SealingKey, group: Group) -> tuple[bytes, ...]:
    """Return the seeds that :func:`keep_seeds` sealed; they were checked against their commitments before.

    Raises:
        BoxError: they were not kept by this seat for this upload.
    """
    try:
        plain = key.kept(kept, _kept_name(header, column))
    except BoxError as error:
        raise BoxError("the kept seeds do not open", sender=header.contributor) from error
    return _cut(plain, len(group.table.held_by(column)), header)


def _kept_name(header: UploadHeader, column: int) -> bytes:
    return bytes.fromhex(header.digest) + bytes([column])


def _cut(plain: bytes, count: int, header: UploadHeader) -> tuple[bytes, ...]:
    if len(plain) != SEED_BYTES * count:
        raise BoxError(f"the box does not hold {count} seeds", sender=header.contributor)
    return tuple(plain[at : at + SEED_BYTES] for at in range(0, len(plain), SEED_BYTES))


def accept_copy(header: UploadHeader, data: Bytes, context: RoundContext) -> None:
    """Check what can be seen of a copy at a glance, before it is stored.

    HAZARD: the bytes may be any. :func:`accept_vector` comes before they are used, and bytes that fail it are not there.

    Raises:
        VectorError: truncated or over-long.
    """
    if len(data) != context.vector_bytes:
        raise VectorError(
            f"{len(data)} bytes arrived, {context.d} values of {context.k} bits take {context.vector_bytes}",
            sender=header.contributor,
        )


def accept_vector(header: UploadHeader, data: Bytes, context: RoundContext) -> None:
    """Check a masked vector against its header: as it comes from its contributor, and a copy when it is needed.

    Raises:
        VectorError: truncated, over-long, badly padded or not the promised bytes.
    """
    accept_copy(header, data, context)
    if vector_digest(data) != header.vector:
        raise VectorError("the vector is not the one in the header", sender=header.contributor)
    if context.d * context.k % 8:
        try:
            unpack(data, context.d, context.k)
        except VectorError as error:
            raise VectorError("the spare bits at the end are not zero", sender=header.contributor) from error


def received(
    headers: Mapping[str, str], vectors: Collection[str], *, column: int, context: RoundContext, group: Group
) -> dict[str, str]:
    """Return what this seat can serve: contributor -> header digest.

    Args:
        headers: contributor -> header digest of the accepted headers.
        vectors: contributors whose masked vector this seat has stored.
        column: this seat's column.
        context: the attempt that is open.
        group: the seats.
    """
    return {
        name: digest
        for name, digest in headers.items()
        if name in vectors or column not in group.carriers(context, name)
    }


def release(
    proposed: ContributorSet,
    statements: Sequence[Mapping[str, Any]],
    *,
    column: int,
    context: RoundContext,
    group: Group,
    signer: Signer,
    lost: frozenset[int],
    released: frozenset[int] | None,
    seeds: Callable[[str], Sequence[bytes]],
    vectors: Callable[[str], Bytes],
    blank: frozenset[int] = frozenset(),
    released_blank: frozenset[int] = frozenset(),
    begun: Begun | None = None,
) -> Share:
    """Return this seat's signed share of the agreed sum; the same arguments give the same bytes.

    Args:
        proposed: the agreed set.
        statements: the seats' signatures on it.
        column: this seat's column.
        context: the attempt that is open.
        group: the seats.
        signer: this seat's signing key.
        lost: seats declared lost; the first living holder does their work.
        released: the ``lost`` of this seat's last share for this set, None when it has released none. With a share
            out, only the work of newly lost seats is released, as a further share. That gives nothing away: all
            shares are over one set, and masks leave a seat only summed over the whole set.
        seeds: contributor -> seeds of its box, as :func:`open_seeds` returns them.
        vectors: contributor -> stored masked vector; called once for each carried contributor.
        blank: seats that were replaced since the round opened; they hold seeds and no vectors.
        released_blank: the ``blank`` of this seat's last share.
        begun: what this seat had added up before the order came; changes the time this takes and not the result.

    Raises:
        QuorumError: the set is not signed by a quorum.
        CohortFloorError: the set is below the floor.
        SecondReleaseError: the share is already out, or this seat itself is declared lost.
        SeatsLostError: a seed or a vector has no holder left.
        VectorError: a stored vector has the wrong length.
    """
    check_size(proposed, group)
    verify_quorum(proposed, statements, context=context, group=group)
    _check_order(column, lost, released, blank, released_blank)
    work = duties(column, proposed, lost, context=context, group=group, blank=blank)
    if released is not None:
        done = duties(column, proposed, released, context=context, group=group, blank=released_blank)
        work = Duties(seeds=work.seeds - done.seeds, carried=work.carried - done.carried)
    parts = Parts(column=column, context=context, group=group, seeds=seeds, vectors=vectors)
    names = frozenset(proposed.contributors)
    if begun is None or released is not None:
        total = np.zeros(context.d, dtype=ring_dtype(context.k))
        parts.change(total, work.carried, names, work.seeds)
    else:
        # What was added too early is taken away again, what is missing is added; the order does not matter in a ring.
        total = begun.total.copy()
        own = own_seeds(column, group)
        parts.change(total, work.carried - begun.carried, names - begun.masked, own)
        parts.change(total, begun.carried - work.carried, begun.masked - names, own, undo=True)
        parts.change(total, (), names, work.seeds - own)
    data = pack(reduce(total, context.k), context.k)
    return sign_share(
        signer,
        proposed,
        data,
        context=context,
        lost=lost,
        released=released,
        blank=blank,
        released_blank=released_blank,
    )


def _check_order(
    column: int,
    lost: frozenset[int],
    released: frozenset[int] | None,
    blank: frozenset[int],
    released_blank: frozenset[int],
) -> None:
    if column in lost:
        raise SecondReleaseError("this seat is declared lost: its work has gone to others")
    if released is None:
        return
    grown = released <= lost and released_blank <= blank
    if not grown or (released == lost and released_blank == blank):
        raise SecondReleaseError("this seat's share for the round is already released")
