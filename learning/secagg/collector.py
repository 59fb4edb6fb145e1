"""The collector: adds the seats' shares and learns the sum, nothing else."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import CohortFloorError, ShareError
from learning.secagg.packing import Bytes, RingVector, reduce, ring_dtype, unpack
from learning.secagg.seat import duties
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader


def open_orders(
    shares: Sequence[ShareHeader],
    proposed: ContributorSet,
    *,
    lost: frozenset[int],
    context: RoundContext,
    group: Group,
) -> dict[int, frozenset[int] | None]:
    """Return which seats still have to release: column -> ``lost`` of its last share (None: it has given none).

    Args:
        shares: the verified shares that have arrived.
        proposed: the agreed set.
        lost: the seats declared lost by now; a share of a lost seat no longer counts.
        context: the attempt that is open.
        group: the seats.

    Raises:
        SeatsLostError: too many seats are lost; the round cannot be finished.
    """
    orders: dict[int, frozenset[int] | None] = {}
    for column in range(len(group.seats)):
        if column in lost:
            continue
        wanted = duties(column, proposed, lost, context=context, group=group)
        last = max((share.lost for share in shares if share.column == column), key=len, default=None)
        if last is not None:
            done = duties(column, proposed, last, context=context, group=group)
            if wanted == done:
                continue
        orders[column] = last
    return orders


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
    seeds: list[int] = []
    carried: list[str] = []
    for header, load in shares:
        if header.column in lost:
            continue
        work = duties(header.column, proposed, header.lost, context=context, group=group)
        done_seeds: Collection[int] = ()
        done_carried: Collection[str] = ()
        if header.released is not None:
            before = duties(header.column, proposed, header.released, context=context, group=group)
            done_seeds, done_carried = before.seeds, before.carried
        seeds.extend(work.seeds.difference(done_seeds))
        carried.extend(work.carried.difference(done_carried))
        np.add(total, unpack(load(), context.d, context.k), out=total)
    if sorted(seeds) != list(range(len(group.table))) or sorted(carried) != list(proposed.contributors):
        raise ShareError("the shares do not cover every seed and every contributor exactly once")
    return reduce(total, context.k)


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
