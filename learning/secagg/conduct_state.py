"""One attempt at a round, group by group: states, what is known, and what is to be done, as plain values.

`conduct.py` moves them. The product stores a :class:`GroupRound` per group and carries actions out over HTTP; the
failure simulator carries the same actions out under a simulated clock and network.
"""

import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Self, TypeAlias

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import ParameterError
from learning.secagg.inner import InnerHeader, InnerSet
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader
from learning.tree import ExecutionTree


class GroupState(StrEnum):
    """Where a group stands in one attempt."""

    COLLECTING = "COLLECTING"
    GATHERING = "GATHERING"
    SIGNING = "SIGNING"
    RELEASING = "RELEASING"
    COMPLETE = "COMPLETE"
    LEFT_OUT = "LEFT_OUT"


class GroupEvent(StrEnum):
    """What moves it."""

    SET_PROPOSED = "uploads are all there"
    CHILDREN_SUMMED = "children all have a sum, or never will"
    HANDED_UP = "every seat holds its children's shares"
    TOO_FEW = "fewer than the floor"
    SIGNED = "enough seats signed the set"
    NOT_SIGNED = "too few seats can sign"
    COVERED = "shares cover the set"
    SHARE_GONE = "a share was lost with its seats"
    CHILDREN_CHANGED = "a child's shares changed"
    CANNOT_FINISH = "something has no holder left"


_S, _E = GroupState, GroupEvent
UNSIGNED = (_S.COLLECTING, _S.GATHERING, _S.SIGNING)
"""States in which a group's set is not final yet."""

GROUP_TABLE: Mapping[tuple[GroupState, GroupEvent], GroupState] = {
    (_S.COLLECTING, _E.SET_PROPOSED): _S.SIGNING,
    (_S.COLLECTING, _E.CHILDREN_SUMMED): _S.GATHERING,
    (_S.COLLECTING, _E.TOO_FEW): _S.LEFT_OUT,
    (_S.COLLECTING, _E.CANNOT_FINISH): _S.LEFT_OUT,
    (_S.GATHERING, _E.HANDED_UP): _S.SIGNING,
    (_S.GATHERING, _E.NOT_SIGNED): _S.LEFT_OUT,
    (_S.GATHERING, _E.CHILDREN_CHANGED): _S.COLLECTING,
    (_S.GATHERING, _E.CANNOT_FINISH): _S.LEFT_OUT,
    (_S.SIGNING, _E.SIGNED): _S.RELEASING,
    (_S.SIGNING, _E.NOT_SIGNED): _S.LEFT_OUT,
    (_S.SIGNING, _E.CHILDREN_CHANGED): _S.COLLECTING,
    (_S.SIGNING, _E.CANNOT_FINISH): _S.LEFT_OUT,
    (_S.RELEASING, _E.COVERED): _S.COMPLETE,
    (_S.RELEASING, _E.CHILDREN_CHANGED): _S.COLLECTING,
    (_S.RELEASING, _E.CANNOT_FINISH): _S.LEFT_OUT,
    (_S.COMPLETE, _E.SHARE_GONE): _S.RELEASING,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """How often a seat was asked for what it owes: in all, since it was last heard, and when last; ``what`` was asked."""

    times: int
    quiet: int
    last: float
    what: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupRound:
    """One group in one attempt.

    Attributes:
        group: its name.
        state: where it stands.
        since: when that began, in seconds since the attempt was opened, as all times here.
        proposed: the set that its seats sign: contributors of a leaf, shares of an inner group's children.
        lost: leaf seats whose work has gone to others.
        blank: columns whose seat was replaced in this attempt.
        replaced: column -> times its seat has been replaced in the job.
        asked: column -> how often its seat was asked for what it owes now.
        enough: when enough seats had signed (None: not yet).
        reason: why it was left out.
    """

    group: str
    state: GroupState = GroupState.COLLECTING
    since: float = 0.0
    proposed: ContributorSet | InnerSet | None = None
    lost: frozenset[int] = frozenset()
    blank: frozenset[int] = frozenset()
    replaced: Mapping[int, int] = dataclasses.field(default_factory=dict)
    asked: Mapping[int, Ask] = dataclasses.field(default_factory=dict)
    enough: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the round as a JSON value for a row."""
        return {
            "group": self.group,
            "state": self.state.value,
            "since": self.since,
            "proposed": None if self.proposed is None else self.proposed.to_json(),
            "inner": isinstance(self.proposed, InnerSet),
            "lost": sorted(self.lost),
            "blank": sorted(self.blank),
            "replaced": {str(column): times for column, times in sorted(self.replaced.items())},
            "asked": {
                str(column): [ask.times, ask.quiet, ask.last, ask.what] for column, ask in sorted(self.asked.items())
            },
            "enough": self.enough,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        proposed = value["proposed"]
        kind = InnerSet if value["inner"] else ContributorSet
        return cls(
            group=value["group"],
            state=GroupState(value["state"]),
            since=value["since"],
            proposed=None if proposed is None else kind.from_json(proposed),
            lost=frozenset(value["lost"]),
            blank=frozenset(value["blank"]),
            replaced={int(column): times for column, times in value["replaced"].items()},
            asked={int(c): Ask(times=a[0], quiet=a[1], last=a[2], what=a[3]) for c, a in value["asked"].items()},
            enough=value["enough"],
            reason=value["reason"],
        )


def move_group(value: GroupRound, event: GroupEvent, now: float, **changes: Any) -> GroupRound:
    """Return ``value`` after ``event``; what was asked before no longer counts.

    Raises:
        ParameterError: the event does not apply in that state.
    """
    target = GROUP_TABLE.get((value.state, event))
    if target is None:
        raise ParameterError(f"a group that is {value.state} does not take: {event}")
    values: dict[str, Any] = {"state": target, "since": now, "asked": {}, "enough": None} | changes
    return dataclasses.replace(value, **values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """What the collector knows about a group in this attempt; all of it verified, all of it only ever grows.

    Attributes:
        uploads: of a leaf, once its collecting is over: contributor -> header digest (None: not over).
        signed: participant -> digest of the set that it signed.
        refused: participants that will not sign (another set was signed, or what was asked is wrong).
        shares: signed share headers of this group's seats, whether or not their bytes have arrived above.
        heard: participant -> when it last answered anything.
        holds: inner seat -> digest of the set of which it said that every listed share of its column is there.
        missing: inner seat -> children of which it says that it lacks a listed share.
        unreachable: participants that others could not hand anything to.
        delivered: digests of shares that have arrived at the parent's seat.
    """

    uploads: Mapping[str, str] | None = None
    signed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    shares: tuple[ShareHeader | InnerHeader, ...] = ()
    heard: Mapping[str, float] = dataclasses.field(default_factory=dict)
    holds: Mapping[str, str] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unreachable: frozenset[str] = frozenset()
    delivered: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskToSign:
    """Ask a seat for its signature on its group's set.

    ``doubtful`` are columns that will probably be lost: a seat may begin with their work, but releases none of it yet.
    Without ``sign``, an inner seat is asked what it lacks of the set, and binds itself to nothing.
    """

    group: str
    column: int
    sign: bool = True
    doubtful: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderRelease:
    """Order a seat to release its share (or what newly lost seats left it) to ``to``; None: to the collector."""

    group: str
    column: int
    lost: frozenset[int]
    blank: frozenset[int]
    to: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resend:
    """Order a seat to hand the shares that it keeps to ``to``, who took over the parent's seat; None: the collector."""

    group: str
    column: int
    to: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replace:
    """The seat of a column is given up; ``seat`` is the next in the ring, for the ``number``-th time in the job."""

    group: str
    column: int
    number: int
    seat: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reseal:
    """Ask the providers of the set's contributors to seal their seeds to a leaf's new seat."""

    group: str
    column: int
    number: int
    seat: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOut:
    """The group takes no part in this attempt's sum."""

    group: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Abort:
    """The attempt cannot be completed."""

    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finish:
    """The shares of the top cover its set: add them. ``leaves`` are the leaf groups that are in the sum."""

    leaves: tuple[str, ...]


Action: TypeAlias = AskToSign | OrderRelease | Resend | Replace | Reseal | LeaveOut | Abort | Finish


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
    """When a seat is given up.

    Attributes:
        again: seconds between two asks of one seat.
        silent: asks without any answer after which it is given up.
        stuck: asks with answers, but without what was asked for, after which it is given up.
        grace: seconds that the others of a group wait for the last signatures when there are enough.
    """

    again: float = 2.0
    silent: int = 10
    stuck: int = 60
    grace: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What does not change during an attempt.

    Attributes:
        tree: the groups.
        group: (name, column -> replacements as of now) -> the group's seats.
        context: name -> the group's context.
        min_contributors: fewest in the sum of all.
        patience: when seats are given up.
    """

    tree: ExecutionTree
    group: Callable[[str, Mapping[int, int]], Group]
    context: Callable[[str], RoundContext]
    min_contributors: int
    patience: Patience = Patience()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """What came of a look at the attempt.

    Attributes:
        rounds: every group.
        actions: what is to be done now, in order.
        due: group -> when to look again though nothing should arrive.
    """

    rounds: Mapping[str, GroupRound]
    actions: tuple[Action, ...]
    due: Mapping[str, float]
