"""The state machine of an attempt: its table, and what it asks for when seats are silent, gone or refuse."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import learning.secagg
from learning.diagrams import group_diagram
from learning.secagg.conduct import advance, next_replaced, open_groups
from learning.secagg.conduct_state import (
    GROUP_TABLE,
    Abort,
    AskToSign,
    Finish,
    GroupEvent,
    GroupFacts,
    GroupRound,
    GroupState,
    LeaveOut,
    OrderRelease,
    Patience,
    Progress,
    Replace,
    Reseal,
    Resend,
    Setting,
    move_group,
)
from learning.secagg.context import Group
from learning.secagg.covered import contributors_in
from learning.secagg.errors import ParameterError
from learning.secagg.inner import InnerHeader, InnerSet
from learning.secagg.sets import ContributorSet
from learning.secagg.shares import ShareHeader
from learning.tree import ExecutionTree
from policies.canonical import digest
from tests.support.secagg_star import make_context, make_group

E, S = GroupEvent, GroupState
PATIENCE = Patience(again=1.0, silent=2, stuck=4, grace=0.5)
UPLOADS = {"a": "11" * 32, "b": "22" * 32, "c": "33" * 32}


# The table


def test_ends_are_final_and_everything_else_can_end():
    """A group that is left out stays so; from every other state an end can be reached."""
    left = {state for state, _ in GROUP_TABLE}
    assert set(S) - left == {S.LEFT_OUT}
    reach = {S.LEFT_OUT, S.COMPLETE}
    for _ in S:
        reach |= {state for (state, _), target in GROUP_TABLE.items() if target in reach}
    assert reach == set(S)


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("event", list(E))
def test_what_is_not_in_the_table_does_not_happen(state, event):
    """Every pair of state and event either moves or is refused."""
    value = GroupRound(group="0", state=state, asked={}, since=1.0)
    if (state, event) in GROUP_TABLE:
        assert move_group(value, event, 2.0).state is GROUP_TABLE[state, event]
    else:
        with pytest.raises(ParameterError):
            move_group(value, event, 2.0)


def test_the_readme_shows_what_the_table_prints():
    """The room's picture is the table's."""
    assert learning.secagg.__file__ is not None
    assert group_diagram() in Path(learning.secagg.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_rounds_travel_as_json():
    """A row gives back what was stored, for leaves and inner groups."""
    for proposed in (None, ContributorSet.of(UPLOADS), InnerSet.of({"0.0": [(0, "ab")]})):
        value = GroupRound(group="0", proposed=proposed, lost=frozenset({1}), replaced={2: 1}, reason="x")
        value = dataclasses.replace(value, blank=frozenset({2}), enough=1.5)
        assert GroupRound.from_json(json.loads(json.dumps(value.to_json()))) == value


# One leaf group, which is the top as well


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


def test_a_round_without_failures_asks_orders_and_finishes():
    """Everybody is asked once for a signature, once for a share."""
    bench = Bench(3, 1)
    assert bench.step(0.0).actions == ()
    bench.know("0", uploads=UPLOADS)
    assert bench.step(1.0).actions == tuple(AskToSign(group="0", column=column) for column in range(3))
    assert bench.step(1.1).actions == ()
    bench.sign("0", 0, 1, 2)
    orders = bench.step(1.2).actions
    assert [type(order) for order in orders] == [OrderRelease] * 3
    assert all(order.to is None for order in orders if isinstance(order, OrderRelease))
    for column in range(3):
        bench.share("0", column)
    assert bench.step(1.3).actions == (Finish(leaves=("0",)),)
    assert contributors_in(bench.rounds) == ("a", "b", "c")
    assert bench.step(9.0).actions == ()


def test_a_set_below_the_floor_ends_the_attempt_by_name():
    """Too few contributors: nobody is asked to sign."""
    bench = Bench(3, 1, minimum=4)
    bench.know("0", uploads=UPLOADS)
    actions = bench.step(0.0).actions
    assert [type(action) for action in actions] == [LeaveOut, Abort]
    assert "3 contributors" in str(actions)


def test_with_enough_signatures_the_others_get_a_grace_and_then_their_work_goes_to_others():
    """(5, 2): four sign, the fifth is waited for, then released without."""
    bench = Bench(5, 2)
    bench.know("0", uploads=UPLOADS)
    bench.step(0.0)
    bench.sign("0", 0, 1, 2, 3)
    waiting = bench.step(0.1)
    assert waiting.actions == ()
    assert waiting.due["0"] == pytest.approx(0.6)
    actions = bench.step(0.6).actions
    assert {action.column for action in actions if isinstance(action, OrderRelease)} == {0, 1, 2, 3}
    assert bench.rounds["0"].lost == {4}
    assert next_replaced(bench.tree, bench.rounds) == {"0": {4: 1}}


def test_nobody_waits_for_a_seat_that_is_known_to_be_gone():
    """A failed health check ends the grace, and tells the others what work to begin with."""
    bench = Bench(5, 2)
    bench.know("0", uploads=UPLOADS, unreachable=frozenset({"4-0"}))
    assert bench.step(0.0).actions[0] == AskToSign(group="0", column=0, doubtful=frozenset({4}))
    bench.sign("0", 0, 1, 2, 3)
    bench.step(0.1)
    assert bench.rounds["0"].state is S.RELEASING


def test_without_a_quorum_the_group_is_left_out_and_its_silent_seats_are_replaced_next_round():
    """(5, 2) with two silent seats: asked twice each, then given up."""
    bench = Bench(5, 2)
    bench.know("0", uploads=UPLOADS)
    bench.step(0.0)
    bench.sign("0", 0, 1, 2)
    asked = [action for now in (1.0, 2.0) for action in bench.step(now).actions]
    assert [action.column for action in asked if isinstance(action, AskToSign)] == [3, 4]
    assert bench.rounds["0"].state is S.LEFT_OUT
    assert next_replaced(bench.tree, bench.rounds) == {"0": {3: 1, 4: 1}}


def test_a_silent_seat_that_others_cannot_reach_either_is_asked_to_sign_once():
    """Two of five are silent; where contributors could not reach them, the group does not wait for a second question."""
    ends = {}
    for unreachable in (frozenset(), frozenset({"3-0", "4-0"})):
        bench = Bench(5, 2)
        bench.know("0", uploads=UPLOADS, unreachable=unreachable)
        asked = list(bench.step(0.0).actions)
        bench.sign("0", 0, 1, 2)
        now = 0.0
        while bench.rounds["0"].state is S.SIGNING:
            now += 1.0
            asked += bench.step(now).actions
        times = [action.column for action in asked if isinstance(action, AskToSign)].count(3)
        ends[bool(unreachable)] = (bench.rounds["0"].state, times, now)
    assert ends == {False: (S.LEFT_OUT, 2, 2.0), True: (S.LEFT_OUT, 1, 1.0)}


def test_a_refusal_to_sign_counts_as_no_signature():
    """A seat that signed another set is not asked again."""
    bench = Bench(3, 1)
    bench.know("0", uploads=UPLOADS, refused=frozenset({"1-0"}))
    actions = bench.step(0.0).actions
    assert [type(action) for action in actions][-2:] == [LeaveOut, Abort]


def test_a_seat_that_answers_without_delivering_is_given_up_later_than_a_silent_one():
    """Two unanswered asks, or four answered ones."""
    for heard, last in ((False, 2.0), (True, 4.0)):
        bench = Bench(5, 2)
        bench.to_releasing("0")
        for column in range(4):
            bench.share("0", column)
        now = 0.0
        while not bench.rounds["0"].lost:
            if heard:
                bench.know("0", heard={"4-0": now})
            now += 0.5
            bench.step(now)
        assert now == last


def test_a_lost_seats_work_goes_to_co_holders_while_the_seeds_allow_it_and_then_to_a_replacement():
    """(5, 2): two are lost, the third is replaced, and only seeds go to the new one."""
    bench = Bench(5, 2)
    bench.to_releasing("0")
    bench.know("0", unreachable=frozenset({"0-0", "1-0"}))
    bench.step(0.1)
    assert bench.rounds["0"].lost == {0, 1}
    bench.know("0", unreachable=frozenset({"0-0", "1-0", "3-0"}))
    actions = bench.step(0.2).actions
    value = bench.rounds["0"]
    if value.state is S.LEFT_OUT:
        # The seats that stored somebody's vector were exactly those three.
        assert "stores the vector" in str(value.reason)
        return
    assert (value.blank, value.replaced) == ({3}, {3: 1})
    new = bench.tree.seat("0", 3, 1)
    assert Replace(group="0", column=3, number=1, seat=new) in actions
    assert Reseal(group="0", column=3, number=1, seat=new) in actions


def test_a_group_whose_column_is_empty_is_left_out():
    """A ring of one cannot replace anybody."""
    bench = Bench(3, 2, ring=1)
    bench.to_releasing("0")
    bench.know("0", unreachable=frozenset({"0-0"}))
    bench.step(0.1)
    assert "nobody is left in column 0" in str(bench.rounds["0"].reason)


# A top above two leaves


def two_leaves(ring: int = 5) -> Bench:
    """Return a bench whose leaves are complete."""
    bench = Bench(3, 1, leaves=2, ring=ring)
    bench.complete("0.0")
    bench.complete("0.1")
    return bench


def two_leaves_held() -> Bench:
    """Return a bench whose leaves are complete, and whose top's seats hold their shares and are asked to sign."""
    bench = two_leaves()
    bench.hold("0", 0, 1, 2)
    bench.step(0.1)
    assert bench.rounds["0"].state is S.SIGNING
    return bench


def test_leaf_shares_go_up_inside_their_column():
    """A leaf seat is ordered to release to the parent's seat of the same column."""
    bench = Bench(3, 1, leaves=2)
    bench.know("0.0", uploads=UPLOADS)
    bench.step(0.0)
    bench.sign("0.0", 0, 1, 2)
    orders = [action for action in bench.step(0.1).actions if isinstance(action, OrderRelease)]
    assert [order.to for order in orders] == list(bench.tree.seats("0"))


def test_the_top_waits_for_every_leaf_and_then_sums_those_that_are_complete():
    """A leaf that is left out is not in the inner set."""
    bench = Bench(3, 1, leaves=2)
    bench.complete("0.0")
    assert bench.rounds["0"].state is S.COLLECTING
    bench.know("0.1", uploads={"z": "00" * 32})
    actions = bench.step(1.0).actions
    assert LeaveOut(group="0.1", reason="group 0.1: 1 contributors are too few") in actions
    assert AskToSign(group="0", column=0, sign=False) in actions
    bench.hold("0", 0, 1, 2)
    bench.step(1.1)
    bench.sign("0", 0, 1, 2)
    bench.step(1.2)
    for column in range(3):
        bench.share("0", column)
    assert bench.step(1.3).actions == (Finish(leaves=("0.0",)),)


def test_nobody_signs_an_inner_set_before_everybody_holds_it():
    """Seats are asked what they lack first; one that lacks a share keeps all from signing, and is asked again."""
    bench = two_leaves()
    bench.hold("0", 0, 1)
    bench.know("0", missing={bench.tree.seat("0", 2): ("0.1",)}, heard={bench.tree.seat("0", 2): 0.5})
    actions = bench.step(1.0).actions
    assert bench.rounds["0"].state is S.GATHERING
    assert set(actions) == {
        AskToSign(group="0", column=2, sign=False),
        Resend(group="0.1", column=2, to=bench.tree.seat("0", 2)),
    }
    bench.hold("0", 2)
    assert bench.step(1.5).actions == tuple(AskToSign(group="0", column=column) for column in range(3))


def test_a_child_that_is_lost_while_its_shares_go_up_costs_itself_and_not_the_group():
    """A share lacks, its seat is gone, nobody can make it anew: the other leaf's sum is proposed, and nobody refuses."""
    bench = two_leaves()
    bench.hold("0", 0, 1)
    first = bench.rounds["0"].proposed
    gone = frozenset(bench.tree.seat("0.1", column) for column in range(3))
    bench.know("0", missing={bench.tree.seat("0", 2): ("0.1",)})
    bench.know("0.1", unreachable=gone, delivered=frozenset(share.digest for share in bench.facts["0.1"].shares[:2]))
    now = 1.0
    while bench.rounds["0.1"].state is not S.LEFT_OUT:
        bench.step(now)
        now += 1.0
        assert now < 10.0
    assert bench.rounds["0"].state is S.GATHERING
    proposed = bench.rounds["0"].proposed
    assert isinstance(proposed, InnerSet)
    assert proposed != first
    assert proposed.children == ("0.0",)
    bench.hold("0", 0, 1, 2)
    bench.step(now)
    assert bench.rounds["0"].state is S.SIGNING


def test_what_the_seat_above_holds_is_not_missed_though_nobody_said_that_it_arrived():
    """A seat that says that it holds its group's set speaks for each share in it; its word counts for that set alone."""
    bench = two_leaves_held()
    bench.know("0.0", unreachable=frozenset({bench.tree.seat("0.0", 2)}))
    bench.step(1.0)
    assert bench.rounds["0.0"].state is S.COMPLETE
    other = two_leaves()
    other.hold("0", 0, 1)
    other.know("0.0", unreachable=frozenset({other.tree.seat("0.0", 2)}))
    other.step(1.0)
    assert other.rounds["0.0"].state is S.RELEASING


def test_a_tree_below_the_plans_floor_ends_the_attempt_before_anything_is_added():
    """The floor of the whole counts those who are left."""
    bench = Bench(3, 1, leaves=2, minimum=5)
    bench.complete("0.0")
    bench.know("0.1", uploads={"z": "00" * 32})
    assert isinstance(bench.step(1.0).actions[-1], Abort)


def test_a_silent_inner_seat_is_replaced_and_the_children_send_their_shares_again():
    """Children keep their shares; the set does not change."""
    bench = two_leaves_held()
    before = bench.rounds["0"].proposed
    bench.know("0", unreachable=frozenset({bench.tree.seat("0", 1)}))
    actions = bench.step(1.0).actions
    new = bench.tree.seat("0", 1, 1)
    assert Replace(group="0", column=1, number=1, seat=new) in actions
    assert {action.group for action in actions if isinstance(action, Resend)} == {"0.0", "0.1"}
    assert all(action.to == new for action in actions if isinstance(action, Resend))
    assert bench.rounds["0"].proposed == before
    assert AskToSign(group="0", column=1) in actions


def test_an_inner_seat_that_is_gone_is_replaced_before_anybody_signs_whatever_it_held():
    """It said that it holds all shares, and died while others were waited for: the next one is sent them at once."""
    bench = two_leaves()
    bench.hold("0", 0, 1)
    bench.know("0", unreachable=frozenset({bench.tree.seat("0", 1)}))
    actions = bench.step(0.1).actions
    new = bench.tree.seat("0", 1, 1)
    assert bench.rounds["0"].state is S.GATHERING
    assert Resend(group="0.0", column=1, to=new) in actions
    assert AskToSign(group="0", column=1, sign=False) in actions


def test_a_replacement_of_a_replacement_is_sent_the_shares_at_once():
    """The children's seats were asked a moment ago, but for somebody else: that does not make the second one wait."""
    bench = two_leaves_held()
    sent = []
    for now, place in ((1.0, 0), (1.1, 1)):
        gone = {bench.tree.seat("0", 1, number) for number in range(place + 1)}
        bench.know("0", unreachable=frozenset(gone))
        sent += [(now, action.to) for action in bench.step(now).actions if isinstance(action, Resend)]
    assert sent == [(now, bench.tree.seat("0", 1, number)) for now, number in ((1.0, 1), (1.1, 2)) for _ in range(2)]


def test_inner_seats_release_on_a_quorums_signatures_while_a_replacement_gets_its_shares():
    """Four of five have signed, the fifth is new: four are ordered, the fifth is asked to sign, and then ordered."""
    bench = Bench(5, 2, leaves=2, ring=4)
    for leaf in ("0.0", "0.1"):
        bench.complete(leaf)
    bench.hold("0", *range(5))
    bench.step(0.1)
    bench.sign("0", 0, 1, 2, 3)
    assert bench.step(0.2).actions == ()
    bench.know("0", unreachable=frozenset({bench.tree.seat("0", 4)}))
    actions = bench.step(0.3).actions
    assert bench.rounds["0"].state is S.RELEASING
    assert [one.column for one in actions if isinstance(one, OrderRelease)] == [0, 1, 2, 3]
    assert AskToSign(group="0", column=4) in actions
    bench.sign("0", 4)
    for column in range(4):
        bench.share("0", column)
    assert [one.column for one in bench.step(0.4).actions if isinstance(one, OrderRelease)] == [4]
    bench.share("0", 4)
    assert bench.step(0.5).actions == (Finish(leaves=("0.0", "0.1")),)


def test_the_last_inner_signatures_get_a_grace():
    """A seat that holds everything and has not signed yet is waited for as in a leaf, and then no longer."""
    bench = Bench(5, 2, leaves=2, ring=4)
    for leaf in ("0.0", "0.1"):
        bench.complete(leaf)
    bench.hold("0", *range(5))
    bench.step(0.1)
    bench.sign("0", 0, 1, 2, 3)
    assert bench.step(0.2).due["0"] == pytest.approx(0.7)
    assert bench.rounds["0"].state is S.SIGNING
    bench.step(0.7)
    assert bench.rounds["0"].state is S.RELEASING


def test_a_share_that_died_with_both_its_seats_is_made_anew_and_the_set_is_proposed_again():
    """The child goes back to its release, its co-holders take over, the parent signs the new shares."""
    bench = two_leaves()
    first = bench.rounds["0"].proposed
    bench.know("0.0", unreachable=frozenset({bench.tree.seat("0.0", 2)}))
    bench.step(1.0)
    assert (bench.rounds["0.0"].state, bench.rounds["0.0"].lost) == (S.RELEASING, {2})
    assert bench.rounds["0"].state is S.COLLECTING
    for column in (0, 1):
        bench.share("0.0", column, released=frozenset())
    bench.step(1.1)
    assert bench.rounds["0.0"].state is S.COMPLETE
    assert bench.rounds["0"].state is S.GATHERING
    assert bench.rounds["0"].proposed != first


def test_a_share_that_has_arrived_above_is_not_missed_with_its_seat():
    """A leaf seat may go once its share is delivered."""
    bench = two_leaves()
    shares = frozenset(share.digest for share in bench.facts["0.0"].shares)
    bench.know("0.0", unreachable=frozenset({bench.tree.seat("0.0", 2)}), delivered=shares)
    bench.step(1.0)
    assert bench.rounds["0.0"].state is S.COMPLETE


def test_an_inner_seat_that_lacks_a_share_gets_it_again_and_a_seat_that_cannot_send_it_is_lost():
    """The child's seat is asked as often as any other."""
    bench = two_leaves()
    above = bench.tree.seat("0", 0)
    bench.know("0", missing={above: ("0.1",)})
    found = []
    for now in (1.0, 2.0, 3.0):
        bench.know("0", heard={bench.tree.seat("0", column): now for column in range(3)})
        found += bench.step(now).actions
    assert Resend(group="0.1", column=0, to=above) in found
    assert bench.rounds["0.1"].lost == {0}


def test_an_inner_seat_that_signed_other_children_leaves_the_group_out():
    """Two sets of children could be subtracted from one another."""
    bench = two_leaves_held()
    bench.know("0", refused=frozenset({bench.tree.seat("0", 0)}))
    assert isinstance(bench.step(1.0).actions[-1], Abort)


def test_looking_twice_changes_nothing():
    """The same facts at the same time give the same groups and no further action."""
    bench = two_leaves()
    before = bench.rounds
    assert bench.step(0.0).actions == ()
    assert bench.rounds == before
