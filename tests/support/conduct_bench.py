"""A tree of groups of seats for tests of the state machine: what is known about it is set by hand."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from learning.secagg.conduct import advance, open_groups
from learning.secagg.conduct_state import (
    GroupFacts,
    GroupRound,
    Patience,
    Progress,
    Setting,
)
from learning.secagg.context import Group
from learning.secagg.inner import InnerHeader, InnerSet
from learning.secagg.shares import ShareHeader
from learning.tree import ExecutionTree
from policies.canonical import digest
from tests.support.secagg_star import make_context, make_group

PATIENCE = Patience(again=1.0, silent=2, stuck=4, grace=0.5)
UPLOADS = {"a": "11" * 32, "b": "22" * 32, "c": "33" * 32}


class Bench:
    """A tree of real groups, whose facts are set by hand."""

    def __init__(self, m: int, t: int, leaves: int = 1, ring: int = 3, minimum: int = 2) -> None:
        columns = tuple(tuple(f"{column}-{place}" for place in range(ring)) for column in range(m))
        self.tree = ExecutionTree.grow(leaves, 2, columns)
        self.base = make_group(m, t)
        self.setting = Setting(
            tree=self.tree,
            group=self.group,
            context=lambda name: make_context(group=name, aggregation="tree"),
            min_contributors=minimum,
            patience=PATIENCE,
        )
        self.rounds: Mapping[str, GroupRound] = open_groups(self.tree, {})
        self.facts: dict[str, GroupFacts] = {name: GroupFacts() for name in self.tree.names}

    def group(self, name: str, replaced: Mapping[int, int]) -> Group:
        """Return a group with the names of its ring."""

        def seats(gone: Mapping[int, int]) -> tuple[Any, ...]:
            names = self.tree.seats(name, gone)
            return tuple(
                dataclasses.replace(seat, participant=who, organisation=who)
                for seat, who in zip(self.base.seats, names, strict=True)
            )

        leaf = self.tree.is_leaf(name)
        return dataclasses.replace(
            self.base, seats=seats(replaced), signers=seats({}) if leaf else (), inner=not leaf, n_min=2 if leaf else 1
        )

    def know(self, name: str, **changes: Any) -> None:
        """Set facts of a group."""
        self.facts[name] = dataclasses.replace(self.facts[name], **changes)

    def step(self, now: float) -> Progress:
        """Look at everything."""
        found = advance(self.setting, self.rounds, self.facts, now)
        self.rounds = found.rounds
        return found

    def sign(self, name: str, *columns: int) -> None:
        """Have seats sign the present set."""
        value = self.rounds[name]
        proposed = value.proposed.as_set() if isinstance(value.proposed, InnerSet) else value.proposed
        assert proposed is not None
        names = self.group(name, value.replaced).voices
        wanted = digest(proposed.to_json())
        self.know(name, signed=self.facts[name].signed | {names[column].participant: wanted for column in columns})

    def hold(self, name: str, *columns: int) -> None:
        """Have inner seats say that they hold what the present set lists."""
        value = self.rounds[name]
        assert isinstance(value.proposed, InnerSet)
        seats, wanted = self.group(name, value.replaced).seats, digest(value.proposed.as_set().to_json())
        self.know(name, holds=self.facts[name].holds | {seats[column].participant: wanted for column in columns})

    def share(self, name: str, column: int, **changes: Any) -> None:
        """Have a leaf seat release what the losses give it, or an inner seat its sum."""
        value = self.rounds[name]
        seat = self.group(name, value.replaced).seats[column].participant
        label = digest([name, column, seat, len(self.facts[name].shares)])
        if isinstance(value.proposed, InnerSet):
            wanted = digest(value.proposed.as_set().to_json())
            header: Any = InnerHeader(column=column, seat=seat, children=wanted, vector=label, digest=label)
        else:
            header = ShareHeader(
                column=column,
                seat=seat,
                lost=value.lost,
                blank=value.blank,
                released=None,
                released_blank=frozenset(),
                vector=label,
                digest=label,
            )
            header = dataclasses.replace(header, **changes)
        self.know(name, shares=(*self.facts[name].shares, header))

    def to_releasing(self, name: str, now: float = 0.0) -> None:
        """Bring a leaf to its release."""
        self.know(name, uploads=UPLOADS)
        self.step(now)
        self.sign(name, *range(len(self.base.seats)))
        self.step(now)

    def complete(self, name: str, now: float = 0.0) -> None:
        """Bring a leaf to its end."""
        self.to_releasing(name, now)
        for column in range(len(self.base.seats)):
            self.share(name, column)
        self.step(now)
