"""What a seat adds up: which seeds and vectors are its work, and the share that grows while uploads come in."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import HeaderError, SeatsLostError
from learning.secagg.masking import accumulate
from learning.secagg.packing import Bytes, RingVector, ring_dtype, unpack
from learning.secagg.sets import ContributorSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duties:
    """What one seat adds up: the seed indices whose masks it expands, and the contributors whose vectors it adds."""

    seeds: frozenset[int]
    carried: frozenset[str]


def duties(
    column: int,
    proposed: ContributorSet,
    lost: Collection[int],
    *,
    context: RoundContext,
    group: Group,
    blank: Collection[int] = (),
) -> Duties:
    """Return the work of ``column`` when the seats in ``lost`` are gone, and those in ``blank`` hold seeds only.

    Raises:
        SeatsLostError: a seed or a vector has no holder left.
    """
    table, gone = group.table, {*lost, *blank}
    seeds = frozenset(index for index in range(len(table)) if table.worker(index, lost) == column)
    carried = frozenset(
        name for name in proposed.contributors if _carrier(group.carriers(context, name), gone, name) == column
    )
    return Duties(seeds=seeds, carried=carried)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Where a seat's opened seeds and stored vectors come from."""

    column: int
    context: RoundContext
    group: Group
    seeds: Callable[[str], Sequence[bytes]]
    vectors: Callable[[str], Bytes]

    def change(
        self,
        total: RingVector,
        carried: Collection[str],
        masked: Collection[str],
        indices: Collection[int],
        *,
        undo: bool = False,
    ) -> None:
        """Add the vectors of ``carried`` to ``total`` and subtract the masks ``indices`` of ``masked``; or undo that.

        Raises:
            HeaderError: stored seeds are not as many as this seat holds.
            VectorError: a stored vector has the wrong length.
        """
        operation = np.subtract if undo else np.add
        for name in sorted(carried):
            operation(total, unpack(self.vectors(name), self.context.d, self.context.k), out=total)
        accumulate(total, self._streams(sorted(masked), indices), subtract=not undo)

    def _streams(self, names: Sequence[str], indices: Collection[int]) -> Iterator[tuple[bytes, bytes]]:
        if indices:
            held = self.group.table.held_by(self.column)
            places = [(held.index(index), self.context.mask_info(index)) for index in sorted(indices)]
            yield from _streams(names, places, len(held), self.seeds)


@dataclasses.dataclass(kw_only=True)
class Begun:
    """A share that grows while uploads come in: nothing in it is final, and all of it can be made again from rows.

    Attributes:
        total: carried vectors minus own masks so far, shape (d,).
        masked: contributors whose own masks are in it.
        carried: contributors whose vector is in it.
    """

    total: RingVector = dataclasses.field(repr=False)
    masked: frozenset[str] = frozenset()
    carried: frozenset[str] = frozenset()


def begin(context: RoundContext) -> Begun:
    """Return an empty share of an attempt."""
    return Begun(total=np.zeros(context.d, dtype=ring_dtype(context.k)))


def grow(begun: Begun, parts: Parts, *, masks: Collection[str] = (), carried: Collection[str] = ()) -> None:
    """Take the own masks of some contributors and the carried vectors of some into ``begun``, each once."""
    new_masks, new_carried = frozenset(masks) - begun.masked, frozenset(carried) - begun.carried
    parts.change(begun.total, new_carried, new_masks, own_seeds(parts.column, parts.group))
    begun.masked, begun.carried = begun.masked | new_masks, begun.carried | new_carried


def own_seeds(column: int, group: Group) -> frozenset[int]:
    """Return the seeds whose masks ``column`` expands while every seat lives."""
    return frozenset(index for index in range(len(group.table)) if group.table.worker(index) == column)


def _streams(
    names: Sequence[str],
    places: Sequence[tuple[int, bytes]],
    held: int,
    seeds: Callable[[str], Sequence[bytes]],
) -> Iterator[tuple[bytes, bytes]]:
    for name in names:
        opened = seeds(name)
        if len(opened) != held:
            raise HeaderError(f"{len(opened)} seeds are stored where {held} are held", sender=name)
        for place, info in places:
            yield opened[place], info


def _carrier(carriers: Sequence[int], lost: Collection[int], contributor: str) -> int:
    for column in carriers:
        if column not in lost:
            return column
    raise SeatsLostError(f"every seat that stores the vector of {contributor} is lost")
