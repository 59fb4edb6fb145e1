"""How large the execution tree's groups are: the form that gives the shortest round under a cost model.

A leaf seat opens and checks an upload per contributor, expands its own share of the seeds' masks and adds what it
carries; an inner seat checks and adds one vector per child; every level costs a transfer and the messages of an
agreement. Seats that share a node share its processor. Few large groups cost computing, many small ones cost levels.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from learning.secagg.errors import PlacementError
from learning.secagg.packing import packed_size
from learning.secagg.seeds import threshold_table
from learning.tree import Granularity

# One-way messages in one group's agreement and release: proposal, signature, order, share.
_MESSAGES = 4
_WIDEST = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """What things cost; seconds, and seconds per byte.

    The defaults are one core with AES instructions, as `make bench-secagg` prints them, and schools' lines of
    100 Mbit/s.

    Attributes:
        latency: one message, one way.
        sending: per byte of a vector, on the sender's line.
        receiving: per byte of a vector, on the receiver's line.
        mask: per byte of one seed's mask, expanded and added.
        add: per byte of a vector added.
        check: one signature or sealed box, with its JSON.
        seat: what one seat's agreement and release cost the collector, who asks them all.
    """

    latency: float = 0.01
    sending: float = 8e-8
    receiving: float = 8e-8
    mask: float = 2.2e-10
    add: float = 2.5e-10
    check: float = 2.5e-4
    seat: float = 5e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeShape:
    """A form of the tree, and how long a round is estimated to take in it."""

    leaves: int
    fan_out: int
    depth: int
    seconds: float


def tree_shape(
    *,
    n: int,
    d: int,
    k: int,
    shape: tuple[int, int],
    members: int,
    n_min: int,
    granularity: Granularity = "provider",
    fan_out: int | None = None,
    costs: Costs | None = None,
) -> TreeShape:
    """Return the form with the shortest estimated round, of at least two leaf groups below one inner group.

    Args:
        n: contributors; where they are learners, an estimate from size bands, never a count.
        d: values in the vector.
        k: bits of the ring.
        shape: (m, t).
        members: nodes that can hold seats.
        n_min: fewest contributors of a leaf group.
        granularity: whether leaves are dealt (``provider``) or hashed (``learner``) and so of uneven size.
        fan_out: children of an inner group, where the plan fixes it.
        costs: what things cost.

    Raises:
        PlacementError: two leaf groups of n_min do not come together.
    """
    prices = costs or Costs()
    found = [
        TreeShape(
            leaves=leaves,
            fan_out=width,
            depth=len(_levels(leaves, width)),
            seconds=_seconds(n, packed_size(d, k), shape, members, _levels(leaves, width), prices),
        )
        for leaves in _candidates(n, n_min, granularity)
        for width in ([fan_out] if fan_out else range(2, min(leaves, _WIDEST) + 1))
    ]
    if not found:
        raise PlacementError(f"{n} contributors do not make two leaf groups of at least {n_min}")
    return min(found, key=lambda item: (item.seconds, item.leaves, item.fan_out))


def _candidates(n: int, n_min: int, granularity: Granularity) -> Iterator[int]:
    leaves = 2
    while leaves <= n:
        size = n / leaves
        # Hashed leaves vary: four standard deviations keep all of very many above the floor.
        smallest = math.floor(size) if granularity == "provider" else size - 4 * math.sqrt(size)
        if smallest >= n_min:
            yield leaves
        leaves += max(1, leaves // 16)


def _levels(leaves: int, fan_out: int) -> list[int]:
    sizes = [leaves]
    while sizes[0] > 1:
        sizes.insert(0, -(-sizes[0] // fan_out))
    return sizes


def _seconds(n: int, size: int, shape: tuple[int, int], members: int, levels: list[int], costs: Costs) -> float:
    m, t = shape
    seeds = len(threshold_table(m, t)) / m
    # Seats of a column that share a node wait for each other.
    load = max(1.0, sum(levels) * m / max(members, m))
    per_leaf = math.ceil(n / levels[-1])
    copies = m - t
    computing = per_leaf * (2 * costs.check + size * (seeds * costs.mask + costs.add / m)) * load
    forwarding = per_leaf / m * size * ((copies - 1) * costs.sending + costs.receiving)
    hop = size * costs.sending + _MESSAGES * costs.latency + m * costs.check
    total = max(computing, forwarding) + hop
    for above, below in itertools.pairwise(levels):
        children = math.ceil(below / above)
        total += children * (costs.check + size * (costs.add + costs.receiving)) * load + hop
    return total + m * size * (costs.add + costs.receiving) + sum(levels) * m * costs.seat
