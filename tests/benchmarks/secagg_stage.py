"""What a run of the benchmark is about, and the cast: contributors, seats, leaf groups, contexts."""

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from learning.secagg.context import Group, RoundContext
from learning.secagg.layout import Section, VectorLayout, best_scale
from learning.tree import ExecutionTree
from tests.support.secagg_star import make_context, make_group, member_id, member_signer

# Providers that host the contributors of a large run; each contributor still has its own header, seeds and boxes.
_PROVIDERS = 1000
_FAN_OUT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One row of the benchmark.

    Attributes:
        n: contributors.
        d: values in a vector, 32 bits each.
        leaves: leaf groups; 1 is a star.
        seats: m.
        threshold: t.
        dropout: percent of the contributors that die: every other one before it uploads, the rest in mid-upload.
        copies: seats that store each vector; None is what a plan gets by default, m - t.
        in_turn: whether contributors and seats wait for each other, so that one process works at a time, as Flower's
            does; large rows use both cores.
    """

    n: int
    d: int
    leaves: int = 1
    seats: int = 5
    threshold: int = 2
    dropout: float = 0.0
    copies: int | None = None
    in_turn: bool = True

    @cached_property
    def tree(self) -> ExecutionTree:
        """The tree of groups, all with the same seats."""
        return ExecutionTree.grow(self.leaves, _FAN_OUT, tuple((member_id(column),) for column in range(self.seats)))

    @cached_property
    def group(self) -> Group:
        """The seats, the same in every group."""
        return make_group(self.seats, self.threshold, n_max=max(self.n, 2), copies=self.copies)

    @cached_property
    def inner_group(self) -> Group:
        """The same seats where they sum groups."""
        return dataclasses.replace(self.group, inner=True, n_min=1, n_max=len(self.tree.names))

    @cached_property
    def layout(self) -> VectorLayout:
        """One section of real values, at the finest scale that n contributions allow."""
        return VectorLayout(sections=(Section(name="w", size=self.d, bound=1.0, scale_bits=best_scale(1.0, self.n)),))

    @cached_property
    def members(self) -> dict[str, str]:
        """Participant -> public key."""
        numbers = range(max(min(self.n, _PROVIDERS), self.seats))
        return {member_id(number): member_signer(number).public_key for number in numbers}

    def context(self, leaf: str) -> RoundContext:
        """Return the round in one leaf group."""
        if self.leaves == 1:
            return make_context(k=32, d=self.d)
        return make_context(k=32, d=self.d, group=leaf, aggregation="tree")

    def contributors(self, leaf: str) -> range:
        """Return the numbers of the contributors of a leaf group."""
        return range(self.tree.leaves.index(leaf), self.n, self.leaves)

    def provider(self, number: int) -> int:
        """Return the number of the provider that hosts a contributor."""
        return number % min(self.n, _PROVIDERS)

    def contributor_id(self, number: int) -> str:
        """Return a contributor's id."""
        own = member_id(self.provider(number))
        return own if self.n <= _PROVIDERS else f"{own}#{number}"

    @cached_property
    def dead(self) -> dict[int, bool]:
        """Contributors that die -> whether in mid-upload."""
        count = round(self.n * self.dropout / 100)
        chosen = np.random.default_rng(self.n).choice(self.n, count, replace=False)
        return {int(number): bool(place % 2) for place, number in enumerate(chosen)}


class Pool:
    """Updates without the cost of drawing them: every contributor's is another slice of one array."""

    def __init__(self, d: int) -> None:
        """Draw the array."""
        self._d = d
        random = np.random.default_rng(d)
        self._values = random.standard_normal(d + min(d, 1 << 16), dtype=np.float32) * np.float32(0.1)

    def update(self, number: int) -> NDArray[np.float32]:
        """Return the update of a contributor, shape (d,)."""
        start = (number * 7919) % (len(self._values) - self._d + 1)
        return self._values[start : start + self._d]
