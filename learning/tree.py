"""The execution tree: which groups sum, who sits in them, who contributes to which leaf; a function of the beacon.

Groups are named by their path: the top is ``0``, its children ``0.0``, ``0.1`` and so on, listed level by level. A leaf
group sums contributors, an inner group sums its children's shares, the collector adds the top's. A star is a tree whose
one group is leaf and top at once.

Organisations are dealt to the m columns, so that no node is ever in two of them; in each group the seat of column a is
a member of that column, and who replaces it, and who comes after that one, is fixed as well. Nobody chooses (after SEP2P, EDBT 2019, and
Mirval, SSDBM 2021).
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from learning.placement import Candidate, in_hash_order, organisation_name
from learning.secagg.errors import ParameterError, PlacementError

TOP = "0"
Granularity = Literal["provider", "learner"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionTree:
    """The groups and the columns that seats come from.

    Attributes:
        names: the groups, the top first, level by level.
        columns: for each column the ring of participants, in the order in which they take seats.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]

    @classmethod
    def star(cls, seats: Sequence[str]) -> Self:
        """Return the tree of one group, in which nobody can be replaced."""
        return cls(names=(TOP,), columns=tuple((seat,) for seat in seats))

    @classmethod
    def grow(cls, leaves: int, fan_out: int, columns: tuple[tuple[str, ...], ...]) -> Self:
        """Return the tree with this many leaf groups, of which at most ``fan_out`` share a parent.

        Raises:
            ParameterError: no leaf, or a fan-out below two.
        """
        return cls(names=_names(leaves, fan_out), columns=columns)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @functools.cached_property
    def _children(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {name: [] for name in self.names}
        for name in self.names[1:]:
            found[name.rpartition(".")[0]].append(name)
        return {name: tuple(below) for name, below in found.items()}

    @functools.cached_property
    def leaves(self) -> tuple[str, ...]:
        """The groups that sum contributors."""
        return tuple(name for name in self.names if not self._children[name])

    @property
    def depth(self) -> int:
        """Levels of groups; 1 for a star."""
        return self.names[-1].count(".") + 1

    def parent(self, name: str) -> str | None:
        """Return the group that sums this group's shares; None for the top, whose shares go to the collector."""
        self.number(name)
        return name.rpartition(".")[0] or None

    def children(self, name: str) -> tuple[str, ...]:
        """Return the groups whose shares this group sums; none for a leaf."""
        self.number(name)
        return self._children[name]

    def is_leaf(self, name: str) -> bool:
        """Say whether the group sums contributors."""
        return not self.children(name)

    def number(self, name: str) -> int:
        """Return the group's place in the list of groups.

        Raises:
            PlacementError: there is no such group.
        """
        try:
            return self._numbers[name]
        except KeyError as error:
            raise PlacementError("the tree has no such group") from error

    def seat(self, name: str, column: int, replacements: int = 0) -> str:
        """Return who holds the group's seat in a column after so many replacements.

        Raises:
            PlacementError: no such group or column, or the ring has no further member.
        """
        if not 0 <= column < len(self.columns):
            raise PlacementError("the tree has no such column")
        ring, place = self.columns[column], self.number(name)
        if not 0 <= replacements < len(ring):
            raise PlacementError("the column has nobody left to replace this seat")
        if replacements == 0:
            return ring[place % len(ring)]
        # Members without a seat first, each group beginning at another one; then the others, round the ring.
        busy = min(len(self.names), len(ring))
        spare, step = len(ring) - busy, replacements - 1
        if step < spare:
            return ring[busy + (place + step) % spare]
        return ring[(place + 1 + step - spare) % busy]

    def seats(self, name: str, replaced: Mapping[int, int] | None = None) -> tuple[str, ...]:
        """Return who holds the group's seats, by column; ``replaced`` says how often which column was replaced."""
        gone = replaced or {}
        if not set(gone) <= set(range(len(self.columns))):
            raise PlacementError("the tree has no such column")
        return tuple(self.seat(name, column, gone.get(column, 0)) for column in range(len(self.columns)))

    def spare(self, column: int, replacements: int = 0) -> int:
        """Return how many more replacements a column's ring allows."""
        return len(self.columns[column]) - 1 - replacements

    def column_of(self, participant: str) -> int | None:
        """Return the one column in which the participant may sit, or None."""
        for column, ring in enumerate(self.columns):
            if participant in ring:
                return column
        return None

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest shows: every group with its parent and first seats, and the columns."""
        groups = [{"name": name, "parent": self.parent(name), "seats": list(self.seats(name))} for name in self.names]
        return {"groups": groups, "columns": [list(ring) for ring in self.columns]}


def place_columns(
    beacon_value: str, candidates: Sequence[Candidate], *, seats: int, collector_organisation: str
) -> tuple[tuple[str, ...], ...]:
    """Return the columns: organisations in hash order dealt in turn, inside a column members in hash order.

    Args:
        beacon_value: the beacon, hex.
        candidates: the members.
        seats: m, the number of columns.
        collector_organisation: never holds a seat, since the collector sees every share of the top.

    Raises:
        PlacementError: fewer organisations than columns.
    """
    own = organisation_name(collector_organisation)
    owner = {member.participant: organisation_name(member.organisation) for member in candidates}
    names = set(owner.values()) - {own}
    if len(names) < seats:
        raise PlacementError(f"{seats} seats need as many organisations beside the collector's: {len(names)}")
    column_of = {name: place % seats for place, name in enumerate(in_hash_order(beacon_value, sorted(names), "column"))}
    columns: list[list[str]] = [[] for _ in range(seats)]
    for member in in_hash_order(beacon_value, sorted(owner), "placement"):
        if owner[member] != own:
            columns[column_of[owner[member]]].append(member)
    return tuple(map(tuple, columns))


def deal_leaves(beacon_value: str, members: Sequence[str], leaves: Sequence[str]) -> dict[str, str]:
    """Return the leaf group of each member: hash order, dealt in turn, so that sizes differ by one at most."""
    order = in_hash_order(beacon_value, sorted(members), "placement")
    return {member: leaves[place % len(leaves)] for place, member in enumerate(order)}


def hashed_leaf(beacon_value: str, contributor: str, leaves: Sequence[str]) -> str:
    """Return the leaf group of one of many contributors, of whom nobody keeps a list."""
    word = hashlib.sha256(f"{beacon_value}|{contributor}".encode()).digest()[:8]
    return leaves[int.from_bytes(word, "big") % len(leaves)]


def parse_replaced(value: object, tree: ExecutionTree) -> dict[str, dict[int, int]]:
    """Read ``{group: {column: replacements}}`` as messages carry it (column numbers as text).

    Raises:
        PlacementError: a group, column or number that the tree does not have.
    """
    if not isinstance(value, Mapping) or not all(isinstance(item, Mapping) for item in value.values()):
        raise PlacementError("replacements are written group by group")
    found: dict[str, dict[int, int]] = {}
    for name, columns in value.items():
        found[str(name)] = {}
        for column, times in columns.items():
            if not (isinstance(column, str) and column.isdecimal() and column == str(int(column))):
                raise PlacementError("a replaced column is a number")
            if type(times) is not int or times < 1:
                raise PlacementError("a column is replaced once or more")
            tree.seat(str(name), int(column), times)
            found[str(name)][int(column)] = times
    return found


def replaced_json(replaced: Mapping[str, Mapping[int, int]]) -> dict[str, dict[str, int]]:
    """Return what :func:`parse_replaced` reads."""
    return {
        name: {str(column): times for column, times in sorted(columns.items())}
        for name, columns in sorted(replaced.items())
        if columns
    }


def _names(leaves: int, fan_out: int) -> tuple[str, ...]:
    if leaves < 1 or fan_out < 2:  # noqa: PLR2004 - one child per group would be a chain
        raise ParameterError("a tree has leaves, and groups with at least two children")
    sizes = [leaves]
    while sizes[0] > 1:
        sizes.insert(0, -(-sizes[0] // fan_out))
    names, above = [TOP], [TOP]
    for size in sizes[1:]:
        level: list[str] = []
        for place, name in enumerate(above):
            # Consecutive shares of the level, equal but for one.
            first, last = place * size // len(above), (place + 1) * size // len(above)
            level.extend(f"{name}.{number}" for number in range(last - first))
        names.extend(level)
        above = level
    return tuple(names)
