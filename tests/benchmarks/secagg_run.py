"""One row of the benchmark: contributors in one process, seats and collector in another, a pipe between them."""

import dataclasses
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from learning.secagg.inner import add_column
from learning.secagg.packing import RingVector
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import Share
from learning.tree import TOP
from tests.benchmarks import secagg_contributors
from tests.benchmarks.secagg_clock import Stopwatch, peak_bytes
from tests.benchmarks.secagg_inner import InnerGroup
from tests.benchmarks.secagg_seats import Inbox, LeafGroup, count_parts
from tests.benchmarks.secagg_stage import Shape

_SPAWN = multiprocessing.get_context("spawn")
_SAY_SECONDS = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a row cost, and whether its sums are the clear ones bit for bit.

    Attributes:
        shape: the row.
        seconds: CPU seconds by role and part.
        contributor: CPU seconds of one contributor, the median.
        uploads: contributors that uploaded in full.
        uploaded: bytes that left them: the vector once, headers and boxes, as the learning API has them, without HTTP.
        summed: contributors in the sum.
        exact: every group's sum and the total are the clear ones, and nobody who uploaded is missing.
        contributor_peak: most bytes that the contributors' process held.
        seats_peak: most bytes that the process of all seats and the collector held.
        wall: seconds from start to end.
    """

    shape: Shape
    seconds: dict[tuple[str, str], float]
    contributor: float
    uploads: int
    uploaded: int
    summed: int
    exact: bool
    contributor_peak: int
    seats_peak: int
    wall: float

    def role(self, *prefixes: str) -> float:
        """Return the CPU seconds of the roles whose names begin so."""
        return sum(spent for (role, _), spent in self.seconds.items() if role.startswith(prefixes))

    @property
    def aggregator(self) -> float:
        """CPU seconds of seats, inner seats and collector."""
        return self.total - self.role(secagg_contributors.ROLE)

    @property
    def total(self) -> float:
        """CPU seconds of everybody."""
        return sum(self.seconds.values())

    @property
    def upload_ratio(self) -> float:
        """Bytes that leave a contributor, per byte of the float32 vector."""
        return self.uploaded / self.uploads / (4 * self.shape.d)


def run(shape: Shape) -> Outcome:
    """Run one row in processes of its own."""
    start = time.perf_counter()
    here, there = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_seats, args=(shape, there))
    process.start()
    there.close()
    found: dict[str, Any] = json.loads(here.recv_bytes())
    process.join()
    seconds = {(role, part): spent for role, part, spent in found.pop("seconds")}
    return Outcome(shape=shape, seconds=seconds, wall=time.perf_counter() - start, **found)


@dataclasses.dataclass(kw_only=True)
class _Round:
    """The walk over the tree's groups, leaves first: an inner group sums as soon as its children have."""

    shape: Shape
    watch: Stopwatch
    arriving: Inbox
    pipe: Connection
    clear: RingVector
    exact: bool = True
    summed: int = 0
    groups: int = 0
    start: float = dataclasses.field(default_factory=time.perf_counter)
    said: float = 0.0

    def total(self) -> RingVector:
        """Return the collector's sum."""
        if self.shape.leaves == 1:
            leaf, proposed, shares = self._leaf(TOP)
            return leaf.collect(shares, proposed)
        group = self._inner(TOP)
        agreed, shares = group.release()
        return group.collect(agreed, shares)

    def _shares(self, name: str) -> list[Share]:
        if not self.shape.tree.is_leaf(name):
            return self._inner(name).release()[1]
        return self._leaf(name)[2]

    def _inner(self, name: str) -> InnerGroup:
        shape = self.shape
        group = InnerGroup(context=shape.context(name), group=shape.inner_group, watch=self.watch)
        for child in shape.tree.children(name):
            group.take(child, shape.context(child), self._shares(child))
        return group

    def _leaf(self, name: str) -> tuple[LeafGroup, ContributorSet, list[Share]]:
        shape = self.shape
        leaf = LeafGroup(context=shape.context(name), group=shape.group, members=shape.members, watch=self.watch)
        while columns := next(self.arriving):
            leaf.take(columns, next(self.arriving), next(self.arriving), next(self.arriving))
            if shape.in_turn:
                self.pipe.send_bytes(b"next")
        clear = np.frombuffer(next(self.arriving), dtype="<u4")
        proposed, statements = leaf.agree(range(shape.seats))
        shares = [leaf.release(column, proposed, statements) for column in range(shape.seats)]
        self.exact &= np.array_equal(add_column([share.vector for share in shares], leaf.context), clear)
        self.summed += len(proposed.uploads)
        np.add(self.clear, clear, out=self.clear)
        self._say()
        return leaf, proposed, shares

    def _say(self) -> None:
        """Print how far a long run has come, now and then."""
        self.groups += 1
        spent = time.perf_counter() - self.start
        if spent - self.said > _SAY_SECONDS:
            self.said = spent
            left = spent / self.groups * (self.shape.leaves - self.groups)
            print(
                f"    {self.groups} of {self.shape.leaves} leaves, {spent:.0f} s, about {left:.0f} s to go",
                file=sys.stderr,
                flush=True,
            )


def _seats(shape: Shape, answer: Connection) -> None:
    here, there = _SPAWN.Pipe()
    process = _SPAWN.Process(target=secagg_contributors.contribute, args=(shape, there), daemon=True)
    process.start()
    there.close()
    watch = Stopwatch()
    count_parts(watch)
    clear = np.zeros(shape.d, dtype="<u4")
    play = _Round(shape=shape, watch=watch, arriving=Inbox(here), pipe=here, clear=clear)
    exact = np.array_equal(play.total(), play.clear) and play.exact
    costs = json.loads(next(play.arriving))
    process.join()
    found = {
        "seconds": [[*key, spent] for key, spent in watch.seconds.items()] + costs["seconds"],
        "contributor": costs["median"],
        "uploads": costs["uploads"],
        "uploaded": costs["uploaded"],
        "summed": play.summed,
        "exact": exact and play.summed == costs["uploads"],
        "contributor_peak": costs["peak"],
        "seats_peak": peak_bytes(),
    }
    answer.send_bytes(json.dumps(found).encode())
