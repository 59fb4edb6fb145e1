"""Seats that die: many small groups, every seat with the same chance, half of the deaths before the set is agreed on.

Nobody is replaced here. A group must then complete exactly when at most m - q seats die before agreement and at most
m - t - 1 in all; the same uploads are played through for every chance.
"""

import dataclasses
from math import comb

import numpy as np

from learning.secagg.contributor import prepare_upload
from learning.secagg.errors import QuorumError, SeatsLostError
from learning.secagg.inner import add_column
from learning.secagg.packing import RingVector
from learning.secagg.shares import Share
from tests.benchmarks.secagg_clock import Stopwatch
from tests.benchmarks.secagg_seats import LeafGroup
from tests.benchmarks.secagg_stage import Shape
from tests.support.secagg_star import make_context, member_id, member_signer, ring_vector

CHANCES = (0.0, 1.0, 5.0, 10.0)
_CONTRIBUTORS, _D = 3, 64


@dataclasses.dataclass(kw_only=True)
class Deaths:
    """What became of the groups at one chance.

    Attributes:
        percent: chance of a seat to die.
        groups: how many were played.
        completed: those that gave a sum.
        exact: those whose sum is the clear one bit for bit.
        as_predicted: those that completed exactly when the rule says so.
        expected: share of groups that the rule lets complete.
    """

    percent: float
    groups: int = 0
    completed: int = 0
    exact: int = 0
    as_predicted: int = 0
    expected: float = 0.0


def play_deaths(groups: int, seats: int = 5, threshold: int = 2) -> list[Deaths]:
    """Play ``groups`` groups at every chance."""
    shape = Shape(n=_CONTRIBUTORS, d=_D, seats=seats, threshold=threshold)
    found = [Deaths(percent=percent, expected=_expected(shape, percent / 100)) for percent in CHANCES]
    random = np.random.default_rng(groups)
    for number in range(groups):
        leaf, clear = _filled(shape, number)
        draws = random.random((2, seats))
        for deaths in found:
            early = draws[0] < deaths.percent / 200
            late = ~early & (draws[1] < _late(deaths.percent / 100))
            _count(deaths, leaf, clear, early, early | late)
    return found


def _filled(shape: Shape, number: int) -> tuple[LeafGroup, RingVector]:
    context = make_context(d=_D, group=f"0.{number}", aggregation="tree")
    leaf = LeafGroup(context=context, group=shape.group, members=shape.members, watch=Stopwatch())
    total = np.zeros(_D, dtype="<u4")
    for member in range(_CONTRIBUTORS):
        vector = ring_vector(context, 10 * number + member)
        np.add(total, vector, out=total)
        package = prepare_upload(
            vector,
            context=context,
            group=shape.group,
            signer=member_signer(member),
            contributor=member_id(member),
        )
        leaf.hold(package)
    return leaf, total


def _count(deaths: Deaths, leaf: LeafGroup, clear: RingVector, early: np.ndarray, dead: np.ndarray) -> None:
    group = leaf.group
    allowed = early.sum() <= len(group.seats) - group.quorum and dead.sum() < len(group.seats) - group.threshold
    total = _sum(leaf, early, dead)
    deaths.groups += 1
    deaths.completed += total is not None
    deaths.exact += total is not None and np.array_equal(total, clear)
    deaths.as_predicted += bool(allowed) == (total is not None)


def _sum(leaf: LeafGroup, early: np.ndarray, dead: np.ndarray) -> "RingVector | None":
    try:
        proposed, statements = leaf.agree([int(column) for column in np.flatnonzero(~early)])
        lost = frozenset(int(column) for column in np.flatnonzero(dead))
        living = [column for column in range(len(dead)) if column not in lost]
        shares: list[Share] = [leaf.release(column, proposed, statements, lost) for column in living]
    except (QuorumError, SeatsLostError):
        return None
    leaf.collect(shares, proposed, lost)
    return add_column((share.vector for share in shares), leaf.context)


def _late(chance: float) -> float:
    """Return the chance to die after agreement of a seat that has lived until then."""
    return (chance / 2) / (1 - chance / 2)


def _expected(shape: Shape, chance: float) -> float:
    """Return the probability that a group completes: at most so many early, at most so many in all."""
    group, seats = shape.group, shape.seats
    half, total = chance / 2, 0.0
    for early in range(seats - group.quorum + 1):
        for late in range(seats - group.threshold - early):
            ways = comb(seats, early) * comb(seats - early, late)
            total += ways * half ** (early + late) * (1 - chance) ** (seats - early - late)
    return total
