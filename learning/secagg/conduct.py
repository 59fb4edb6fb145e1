"""What happens next in an attempt: the one state machine of the collector, run by the product and by the simulator.

No clock, no input or output: :func:`advance` takes what is stored and what is known, and gives back what to store and
what to do. It may be called at any moment, any number of times; what was asked for is asked again after a while, and a
seat that does not answer is given up. Every wait ends, in the exact sum of those who are left or in a named reason.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from learning.secagg.collector import check_cover, counting, open_orders
from learning.secagg.conduct_state import (
    Abort,
    Action,
    Ask,
    AskToSign,
    Finish,
    GroupEvent,
    GroupFacts,
    GroupRound,
    GroupState,
    LeaveOut,
    OrderRelease,
    Progress,
    Replace,
    Reseal,
    Resend,
    Setting,
    move_group,
)
from learning.secagg.context import Group
from learning.secagg.covered import contributors_in, cover_of, inner_shares, leaves_in, name_of
from learning.secagg.errors import SeatsLostError, ShareError
from learning.secagg.inner import InnerSet
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader
from learning.tree import TOP, ExecutionTree
from policies.canonical import digest

_S, _E = GroupState, GroupEvent
_OVER = (_S.COMPLETE, _S.LEFT_OUT)
_NOTHING = GroupFacts()


def open_groups(tree: ExecutionTree, replaced: Mapping[str, Mapping[int, int]]) -> dict[str, GroupRound]:
    """Return every group at the beginning of an attempt; ``replaced`` are the seats replaced in the job so far."""
    return {name: GroupRound(group=name, replaced=dict(replaced.get(name, {}))) for name in tree.names}


def advance(
    setting: Setting,
    rounds: Mapping[str, GroupRound],
    facts: Mapping[str, GroupFacts],
    now: float,
    *,
    touched: Iterable[str] | None = None,
) -> Progress:
    """Return the groups as they are now, and what to do.

    Args:
        setting: the attempt.
        rounds: every group as it was left last time.
        facts: what is known about each group.
        now: seconds since the attempt was opened.
        touched: groups about which something new is known or for which time has run; None looks at all.
    """
    desk = _Desk(setting, rounds, facts, now)
    work = set(setting.tree.names if touched is None else touched)
    while work:
        # Children before parents: what a child has become decides what its parent may do.
        name = max(work, key=setting.tree.number)
        work.discard(name)
        work |= desk.look(name)
    return Progress(rounds=desk.rounds, actions=tuple(desk.actions), due=desk.due)


def next_replaced(tree: ExecutionTree, rounds: Mapping[str, GroupRound]) -> dict[str, dict[int, int]]:
    """Return the replacements with which the next round opens: those of this one, and its lost seats where possible."""
    found: dict[str, dict[int, int]] = {}
    for name, value in rounds.items():
        columns = dict(value.replaced)
        for column in sorted(value.lost):
            if tree.spare(column, columns.get(column, 0)) > 0:
                columns[column] = columns.get(column, 0) + 1
        if columns:
            found[name] = columns
    return found


class _Desk:
    """One call of :func:`advance`: the groups as they change, and the actions as they come up."""

    def __init__(
        self, setting: Setting, rounds: Mapping[str, GroupRound], facts: Mapping[str, GroupFacts], now: float
    ) -> None:
        self.setting, self.tree, self.now = setting, setting.tree, now
        self.rounds, self.facts = dict(rounds), facts
        self.actions: list[Action] = []
        self.due: dict[str, float] = {}
        self._more: set[str] = set()

    def look(self, name: str) -> set[str]:
        """Move one group as far as it goes; return the groups that have to be looked at because of it."""
        before = self.rounds[name]
        self.due.pop(name, None)
        if before.state is _S.COMPLETE and name != TOP:
            self._check_kept(before)
        step = self._leaf if self.tree.is_leaf(name) else self._inner
        while self.rounds[name].state not in _OVER:
            state, lost = self.rounds[name].state, (self.rounds[name].lost, self.rounds[name].blank)
            step(self.rounds[name])
            after = self.rounds[name]
            if (after.state, (after.lost, after.blank)) == (state, lost):
                break
        after = self.rounds[name]
        if after.state is not before.state and after.state in _OVER:
            self._over(after)
        parent = self.tree.parent(name)
        if parent is not None and after != before:
            self._more.add(parent)
        found, self._more = self._more, set()
        return found

    def _over(self, value: GroupRound) -> None:
        left_out = value.state is _S.LEFT_OUT
        if left_out:
            self.actions.append(LeaveOut(group=value.group, reason=value.reason or ""))
        if value.group == TOP:
            self.actions.append(Abort(reason=value.reason or "") if left_out else Finish(leaves=leaves_in(self.rounds)))

    # A leaf group: uploads, signatures, shares that stand in for each other.

    def _leaf(self, value: GroupRound) -> None:
        if value.state is _S.COLLECTING:
            self._close_leaf(value)
        elif value.state is _S.SIGNING:
            self._sign_leaf(value)
        else:
            self._release_leaf(value)

    def _close_leaf(self, value: GroupRound) -> None:
        uploads = self._facts(value).uploads
        if uploads is None:
            return
        floor = self.setting.min_contributors if value.group == TOP else 0
        if len(uploads) < max(floor, self._group(value).n_min):
            self._leave_out(value, _E.TOO_FEW, f"{len(uploads)} contributors are too few")
            return
        self._move(value, _E.SET_PROPOSED, proposed=ContributorSet.of(uploads))

    def _sign_leaf(self, value: GroupRound) -> None:
        group, facts = self._group(value), self._facts(value)
        wanted = name_of(value.proposed) if value.proposed is not None else ""
        voices = [seat.participant for seat in group.voices]
        rest = [column for column, seat in enumerate(voices) if facts.signed.get(seat) != wanted]
        given_up = {column for column in rest if voices[column] in facts.refused}
        doubtful = frozenset(column for column, seat in enumerate(voices) if seat in facts.unreachable)
        if len(doubtful) > len(voices) - group.threshold - 1:
            doubtful = frozenset()
        for column in rest:
            order = AskToSign(group=value.group, column=column, doubtful=doubtful)
            if column not in given_up and self._press(value.group, column, voices[column], order):
                given_up.add(column)
        value = self.rounds[value.group]
        if len(voices) - len(given_up) < group.quorum:
            reason = f"{len(given_up)} of {len(voices)} seats do not sign the set"
            self._leave_out(value, _E.NOT_SIGNED, reason, lost=frozenset(given_up))
            return
        if len(voices) - len(rest) < group.quorum:
            return
        hopeless = given_up | {column for column in rest if voices[column] in facts.unreachable}
        if hopeless.issuperset(rest) or self._grace_is_over(value):
            self._move(self.rounds[value.group], _E.SIGNED, lost=frozenset(rest))

    def _grace_is_over(self, value: GroupRound) -> bool:
        """Say whether the last signatures have been waited for long enough since there were a quorum's."""
        began, grace = self.now if value.enough is None else value.enough, self.setting.patience.grace
        if self.now >= began + grace:
            return True
        if value.enough is None:
            self.rounds[value.group] = _changed(value, enough=began)
        self._wake(value.group, began + grace)
        return False

    def _release_leaf(self, value: GroupRound) -> None:
        group, facts = self._group(value), self._facts(value)
        context = self.setting.context(value.group)
        if not isinstance(value.proposed, ContributorSet):
            return
        shares = [share for share in facts.shares if isinstance(share, ShareHeader)]
        try:
            owed = open_orders(shares, value.proposed, lost=value.lost, context=context, group=group, blank=value.blank)
            if not owed:
                kept = counting(shares, lost=value.lost, group=group)
                check_cover(kept, value.proposed, context=context, group=group)
        except (SeatsLostError, ShareError) as error:
            self._leave_out(value, _E.CANNOT_FINISH, str(error))
            return
        if not owed:
            self._move(value, _E.COVERED)
            return
        for column in sorted(owed):
            seat = group.seats[column].participant
            order = OrderRelease(
                group=value.group,
                column=column,
                lost=value.lost,
                blank=value.blank,
                to=self._above(value.group, column),
            )
            if column in value.blank and self._due(value.group, column, seat):
                self.actions.append(self._reseal(value, column))
            lacks = facts.missing.get(seat, ()) if column in value.blank else ()
            if seat in facts.unreachable or self._press(value.group, column, seat, order, lacks=lacks):
                value = self.rounds[value.group]
                if lacks and self._answers(value, column, seat):
                    # Whoever has those seeds is gone, and nobody else could be given them either.
                    reason = f"the new seat of column {column} is not given all seeds"
                    self._leave_out(value, _E.CANNOT_FINISH, reason)
                else:
                    self._lose(value, column)
                return

    # An inner group: children, signatures, one share of every column.

    def _inner(self, value: GroupRound) -> None:
        if value.state is _S.COLLECTING:
            self._close_inner(value)
            return
        if value.proposed != self._children_set(value.group, value.proposed):
            self._move(value, _E.CHILDREN_CHANGED, proposed=None)
        elif value.state is _S.GATHERING:
            self._give_up_unreachable(value)
            if self.rounds[value.group].state is _S.GATHERING:
                self._agree_inner(self.rounds[value.group])
        elif value.state is _S.SIGNING:
            self._agree_inner(value)
        else:
            self._release_inner(value)

    def _close_inner(self, value: GroupRound) -> None:
        self._give_up_unreachable(value)
        value = self.rounds[value.group]
        states = [self.rounds[child].state for child in self.tree.children(value.group)]
        if value.state is not _S.COLLECTING or not all(state in _OVER for state in states):
            return
        if _S.COMPLETE not in states:
            self._leave_out(value, _E.TOO_FEW, "none of its groups has a sum")
            return
        proposed = self._children_set(value.group, None)
        if value.group == TOP:
            trial = self.rounds | {TOP: _changed(value, proposed=proposed)}
            count = len(contributors_in(trial))
            if count < self.setting.min_contributors:
                self._leave_out(value, _E.TOO_FEW, f"{count} contributors are too few")
                return
        self._move(value, _E.CHILDREN_SUMMED, proposed=proposed)

    def _children_set(self, name: str, proposed: object) -> InnerSet:
        """Return the set of the children as they are; of those in ``proposed``, if there is one."""
        children = proposed.children if isinstance(proposed, InnerSet) else self.tree.children(name)
        found = {}
        for child in children:
            value = self.rounds[child]
            if value.state is _S.COMPLETE:
                found[child] = cover_of(value, self._facts(value), self._group(value))
        return InnerSet.of(found)

    def _agree_inner(self, value: GroupRound) -> None:
        """Ask the seats whether they hold what is listed, then for their signatures.

        Nobody signs before everybody holds: who has signed children signs no others, and so until then a child that
        cannot be had any more costs its own sum, and not that of the whole group.
        """
        group, facts = self._group(value), self._facts(value)
        signing = value.state is _S.SIGNING
        wanted = name_of(value.proposed) if isinstance(value.proposed, InnerSet) else ""
        unsigned = [c for c, seat in enumerate(group.seats) if facts.signed.get(seat.participant) != wanted]
        lacking = [c for c in unsigned if facts.holds.get(group.seats[c].participant) != wanted]
        rest = unsigned if signing else lacking
        if not rest:
            self._move(value, _E.SIGNED if signing else _E.HANDED_UP)
            return
        if any(group.seats[column].participant in facts.refused for column in rest):
            self._leave_out(value, _E.NOT_SIGNED, "a seat refuses its set, or has signed one of other groups before")
            return
        for column in rest:
            seat = group.seats[column].participant
            order = AskToSign(group=value.group, column=column, sign=signing)
            if not self._ask_inner(value, column, seat, order):
                return
        value = self.rounds[value.group]
        if not signing or len(group.seats) - len(rest) < group.quorum:
            return
        # Who came to a seat meanwhile gets its children's shares while the other columns' sums go up already.
        if lacking == unsigned or self._grace_is_over(value):
            self._move(self.rounds[value.group], _E.SIGNED)

    def _release_inner(self, value: GroupRound) -> None:
        group = self._group(value)
        facts = self._facts(value)
        have = inner_shares(value, facts, group)
        if len(have) == len(group.seats):
            self._move(value, _E.COVERED)
            return
        wanted = name_of(value.proposed) if isinstance(value.proposed, InnerSet) else ""
        rest = [c for c, seat in enumerate(group.seats) if facts.signed.get(seat.participant) != wanted]
        # Where seats that signed were replaced since, nobody releases on the word of those who are gone.
        enough = len(group.seats) - len(rest) >= group.quorum
        for column, holder in enumerate(group.seats):
            if column in have or not (enough or column in rest):
                continue
            order: AskToSign | OrderRelease = OrderRelease(
                group=value.group,
                column=column,
                lost=frozenset(),
                blank=frozenset(),
                to=self._above(value.group, column),
            )
            if column in rest:
                order = AskToSign(group=value.group, column=column)
            if not self._ask_inner(value, column, holder.participant, order):
                return

    def _ask_inner(self, value: GroupRound, column: int, seat: str, action: AskToSign | OrderRelease) -> bool:
        """Ask an inner seat; False when it, or a child below it, had to be given up and the groups have changed."""
        facts = self._facts(value)
        if seat in facts.unreachable or self._press(value.group, column, seat, action):
            self._replace(self.rounds[value.group], column)
            return False
        for child in facts.missing.get(seat, ()):
            below = self.rounds[child]
            # What a lost seat had is no longer listed: the answer is older than the set.
            if below.state is not _S.COMPLETE or column in below.lost:
                continue
            keeper = self._group(below).seats[column].participant
            order = Resend(group=child, column=column, to=seat)
            gone = keeper in self._facts(below).unreachable
            if gone or self._press(child, column, keeper, order):
                self._share_gone(self.rounds[child], column)
                return False
        return True

    def _check_kept(self, value: GroupRound) -> None:
        """Ask for a share anew whose seat is gone before the parent's seat had it."""
        facts, group = self._facts(value), self._group(value)
        for column, name in cover_of(value, facts, group):
            if group.seats[column].participant not in facts.unreachable or name in facts.delivered:
                continue
            if not self._held_above(value.group, column):
                self._share_gone(value, column)
                return

    def _held_above(self, name: str, column: int) -> bool:
        """Say whether the parent's seat of a column has said that it holds all that its group's set lists."""
        above = self.rounds[self.tree.parent(name) or name]
        if not isinstance(above.proposed, InnerSet) or name not in above.proposed.children:
            return False
        facts, seat = self._facts(above), self._group(above).seats[column].participant
        wanted = name_of(above.proposed)
        return wanted in (facts.holds.get(seat), facts.signed.get(seat))

    def _give_up_unreachable(self, value: GroupRound) -> None:
        unreachable = self._facts(value).unreachable
        for column, seat in enumerate(self._group(value).seats):
            if seat.participant in unreachable and self.rounds[value.group].state not in _OVER:
                self._replace(self.rounds[value.group], column)

    # What both kinds share.

    def _press(self, name: str, column: int, seat: str, action: Action, *, lacks: tuple[str, ...] = ()) -> bool:
        """Ask a seat for what it owes, unless it was asked a moment ago; True when it is to be given up.

        A seat that ``lacks`` what others owe it is given up sooner, but not while it gets more of it.
        """
        value, patience = self.rounds[name], self.setting.patience
        what = f"{type(action).__name__} {action.to}" if isinstance(action, Resend) else type(action).__name__
        ask = value.asked.get(column)
        if ask is None or ask.what.partition(",")[0] != what:
            ask = Ask(times=0, quiet=0, last=float("-inf"), what=what)
        if lacks:
            what = f"{what}, lacking {digest(list(lacks))}"
        if ask.what != what:
            ask = dataclasses.replace(ask, times=0, what=what)
        quiet = 0 if self._answers(value, column, seat) else ask.quiet
        if self.now < ask.last + patience.again:
            self._wake(name, ask.last + patience.again)
            return False
        # Whoever others cannot reach either is asked once.
        silent = 1 if seat in self._facts(value).unreachable else patience.silent
        if quiet >= silent or ask.times >= (patience.silent if lacks else patience.stuck):
            return True
        self.actions.append(action)
        asked = {**value.asked, column: Ask(times=ask.times + 1, quiet=quiet + 1, last=self.now, what=what)}
        self.rounds[name] = _changed(value, asked=asked)
        self._wake(name, self.now + patience.again)
        return False

    def _answers(self, value: GroupRound, column: int, seat: str) -> bool:
        """Say whether a seat was heard since it was asked last."""
        ask = value.asked.get(column)
        return ask is not None and self._facts(value).heard.get(seat, float("-inf")) >= ask.last

    def _due(self, name: str, column: int, seat: str) -> bool:
        """Say whether a seat that replaced another should be sealed its seeds (again)."""
        value = self.rounds[name]
        ask = value.asked.get(column)
        if ask is None:
            return True
        return bool(self._facts(value).missing.get(seat)) and self.now >= ask.last + self.setting.patience.again

    def _lose(self, value: GroupRound, column: int) -> None:
        group = self._group(value)
        if len(value.lost) < len(group.seats) - group.threshold - 1:
            self.rounds[value.group] = _changed(value, lost=value.lost | {column}, asked={})
        else:
            self._replace(value, column)

    def _replace(self, value: GroupRound, column: int) -> None:
        times = value.replaced.get(column, 0)
        if self.tree.spare(column, times) < 1:
            self._leave_out(value, _E.CANNOT_FINISH, f"nobody is left in column {column} to replace its seat")
            return
        replaced = {**value.replaced, column: times + 1}
        asked = {place: ask for place, ask in value.asked.items() if place != column}
        leaf = self.tree.is_leaf(value.group)
        blank = value.blank | {column}
        value = _changed(value, replaced=replaced, blank=blank, asked={} if leaf else asked)
        self.rounds[value.group] = value
        seat = self.tree.seat(value.group, column, times + 1)
        self.actions.append(Replace(group=value.group, column=column, number=times + 1, seat=seat))
        for child in self.tree.children(value.group):
            below = self.rounds[child]
            handed_up = below.state is _S.COMPLETE or (below.state is _S.RELEASING and column in below.asked)
            if not handed_up or column in below.lost:
                continue
            keeper = self._group(below).seats[column].participant
            gone = keeper in self._facts(below).unreachable
            order = Resend(group=child, column=column, to=seat)
            if below.state is not _S.COMPLETE:
                self.actions.append(order)
            elif gone or self._press(child, column, keeper, order):
                self._share_gone(self.rounds[child], column)

    def _reseal(self, value: GroupRound, column: int) -> Reseal:
        times = value.replaced.get(column, 0)
        seat = self.tree.seat(value.group, column, times)
        return Reseal(group=value.group, column=column, number=times, seat=seat)

    def _share_gone(self, value: GroupRound, column: int) -> None:
        self._more.add(value.group)
        self._move(value, _E.SHARE_GONE)
        value = self.rounds[value.group]
        if not self.tree.is_leaf(value.group):
            self._replace(value, column)
        elif column not in value.lost:
            self._lose(value, column)

    def _leave_out(self, value: GroupRound, event: GroupEvent, reason: str, **changes: object) -> None:
        self._move(value, event, reason=f"group {value.group}: {reason}", **changes)

    def _move(self, value: GroupRound, event: GroupEvent, **changes: object) -> None:
        self.rounds[value.group] = move_group(value, event, self.now, **changes)

    def _above(self, name: str, column: int) -> str | None:
        parent = self.tree.parent(name)
        return None if parent is None else self.tree.seat(parent, column, self.rounds[parent].replaced.get(column, 0))

    def _wake(self, name: str, when: float) -> None:
        self.due[name] = min(self.due.get(name, when), when)

    def _facts(self, value: GroupRound) -> GroupFacts:
        return self.facts.get(value.group, _NOTHING)

    def _group(self, value: GroupRound) -> Group:
        return self.setting.group(value.group, value.replaced)


def _changed(value: GroupRound, **changes: object) -> GroupRound:
    return dataclasses.replace(value, **changes)  # type: ignore[arg-type]
