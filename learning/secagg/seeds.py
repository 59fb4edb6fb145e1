"""Which seats hold which seed: the access structure of a group of seats.

For threshold t of m seats there is one seed per t-subset T, held by every seat outside T (replicated or CNF sharing:
Ito, Saito and Nishizeki 1987; pseudo-random secret sharing: Cramer, Damgard and Ishai, TCC 2005). A coalition of at
most t seats lies inside some T and so misses that seed. The table itself is general: any list of holder sets works.
"""

import dataclasses
import functools
import itertools
from collections.abc import Collection

from learning.secagg.errors import ParameterError, SeatsLostError

SUPPORTED = ((2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 2), (5, 3), (6, 2), (6, 3), (7, 2), (7, 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedTable:
    """Seed index -> holders, each tuple in take-over order (the first holder does the work while it lives).

    Attributes:
        seats: number of seats m; seats are numbered 0..m-1.
        holders: for every seed the seats that hold it.
    """

    seats: int
    holders: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """The number of seeds S."""
        return len(self.holders)

    def held_by(self, seat: int) -> tuple[int, ...]:
        """Return the indices of the seeds that ``seat`` holds, ascending: the order inside its sealed box."""
        return self._held[seat]

    @functools.cached_property
    def _held(self) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(index for index, holders in enumerate(self.holders) if seat in holders) for seat in range(self.seats)
        )

    def worker(self, index: int, lost: Collection[int] = ()) -> int:
        """Return the seat that expands seed ``index`` when the seats in ``lost`` are gone.

        Raises:
            SeatsLostError: every holder is lost.
        """
        for seat in self.holders[index]:
            if seat not in lost:
                return seat
        raise SeatsLostError(f"every holder of seed {index} is lost")


@functools.lru_cache(maxsize=64)
def threshold_table(seats: int, threshold: int) -> SeedTable:
    """Return the table of C(m, t) seeds for m seats of which t may collude.

    Subsets T come in lexicographic order. The first holder of a seed is the seat outside T with the least work so far,
    of equals the last; the others follow cyclically.

    Raises:
        ParameterError: not 1 <= t < m.
    """
    if not 1 <= threshold < seats:
        raise ParameterError(f"a threshold of {threshold} among {seats} seats is not a sharing")
    load = [0] * seats
    table = []
    for subset in itertools.combinations(range(seats), threshold):
        outside = [seat for seat in range(seats) if seat not in subset]
        first = min(outside, key=lambda seat: (load[seat], -seat))
        load[first] += 1
        turn = outside.index(first)
        table.append(tuple(outside[turn:] + outside[:turn]))
    return SeedTable(seats=seats, holders=tuple(table))


def quorum(seats: int, threshold: int) -> int:
    """Return q = floor((m + t) / 2) + 1: any two quorums share a seat that is not corrupt."""
    return (seats + threshold) // 2 + 1
