"""The collector: adds the seats' shares and learns the sum, nothing else."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import CohortFloorError, ShareError
from learning.secagg.packing import Bytes, RingVector, reduce, ring_dtype, unpack
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader
from learning.secagg.work import duties


def open_orders(
    shares: Sequence[ShareHeader],
    proposed: ContributorSet,
    *,
    lost: frozenset[int],
    context: RoundContext,
    group: Group,
    blank: frozenset[int] = frozenset(),
) -> dict[int, frozenset[int] | None]:
    """Return which seats still have to release: column -> ``lost`` of its last share (None: it has given none).

    Args:
        shares: the verified shares that have arrived.
        proposed: the agreed set.
        lost: the seats declared lost by now; a share of a lost seat no longer counts.
        context: the attempt that is open.
        group: the seats; a share of a seat that was replaced since no longer counts.
        blank: the seats that were replaced in this round, and so carry no vectors.

    Raises:
        SeatsLostError: too many seats are lost; the round cannot be finished.
    """
    orders: dict[int, frozenset[int] | None] = {}
    for column in range(len(group.seats)):
        if column in lost:
            continue
        wanted = duties(column, proposed, lost, context=context, group=group, blank=blank)
        last = last_share(shares, column, group)
        if last is not None:
            done = duties(column, proposed, last.lost, context=context, group=group, blank=last.blank)
            if wanted == done:
                continue
        orders[column] = None if last is None else last.lost
    return orders


def counting(shares: Iterable[ShareHeader], *, lost: Collection[int], group: Group) -> list[ShareHeader]:
    """Return the shares that count: those of seats that are neither lost nor replaced."""
    return [
        share for share in shares if share.column not in lost and group.seats[share.column].participant == share.seat
    ]


def last_share(shares: Iterable[ShareHeader], column: int, group: Group) -> ShareHeader | None:
    """Return the latest share of the seat that now holds ``column``, or None."""
    own = [share for share in counting(shares, lost=(), group=group) if share.column == column]
    return max(own, key=lambda share: len(share.lost) + len(share.blank), default=None)


def add_shares(
    shares: Iterable[tuple[ShareHeader, Callable[[], Bytes]]],
    proposed: ContributorSet,
    *,
    lost: frozenset[int],
    context: RoundContext,
    group: Group,
) -> RingVector:
    """Return the exact sum over ``proposed``, shape (d,), values in 0..2^k - 1.

    Args:
        shares: verified headers, each with a function that gives its packed share; loaded one at a time.
        proposed: the agreed set.
        lost: the seats declared lost; their shares are left out, since others have taken over their work.
        context: the attempt that is open.
        group: the seats.

    Raises:
        ShareError: some seed or some vector is covered twice or not at all.
    """
    total = np.zeros(context.d, dtype=ring_dtype(context.k))
    arrived = list(shares)
    kept = counting((header for header, _ in arrived), lost=lost, group=group)
    check_cover(kept, proposed, context=context, group=group)
    names = {header.digest for header in kept}
    for header, load in arrived:
        if header.digest in names:
            np.add(total, unpack(load(), context.d, context.k), out=total)
    return reduce(total, context.k)


def check_cover(
    shares: Iterable[ShareHeader], proposed: ContributorSet, *, context: RoundContext, group: Group
) -> None:
    """Check that shares cover every seed and every contributor of ``proposed`` exactly once.

    Raises:
        ShareError: some seed or some vector is covered twice or not at all.
    """
    seeds: list[int] = []
    carried: list[str] = []
    for header in shares:
        work = duties(header.column, proposed, header.lost, context=context, group=group, blank=header.blank)
        done_seeds: Collection[int] = ()
        done_carried: Collection[str] = ()
        if header.released is not None:
            before = duties(
                header.column, proposed, header.released, context=context, group=group, blank=header.released_blank
            )
            done_seeds, done_carried = before.seeds, before.carried
        seeds.extend(work.seeds.difference(done_seeds))
        carried.extend(work.carried.difference(done_carried))
    if sorted(seeds) != list(range(len(group.table))) or sorted(carried) != list(proposed.contributors):
        raise ShareError("the shares do not cover every seed and every contributor exactly once")


def add_clear(vectors: Mapping[str, Callable[[], Bytes]], *, context: RoundContext, n_min: int) -> RingVector:
    """Return the sum of plain vectors (``aggregation: clear``), bit for bit what the shares would have given.

    Args:
        vectors: contributor -> function that gives its packed vector, checked against its header when it arrived.
        context: the attempt that is open.
        n_min: the floor.

    Raises:
        CohortFloorError: fewer than n_min vectors.
    """
    if len(vectors) < n_min:
        raise CohortFloorError(f"{len(vectors)} contributors are fewer than the floor of {n_min}")
    total = np.zeros(context.d, dtype=ring_dtype(context.k))
    for name in sorted(vectors):
        np.add(total, unpack(vectors[name](), context.d, context.k), out=total)
    return reduce(total, context.k)
