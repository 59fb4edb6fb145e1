"""The state machine of an attempt: its table, and what it asks for when seats are silent, gone or refuse."""

import dataclasses
import json
from itertools import combinations
from pathlib import Path

import pytest

import learning.secagg
from learning.diagrams import group_diagram
from learning.secagg.conduct import next_replaced
from learning.secagg.conduct_state import (
    GROUP_TABLE,
    Abort,
    AskToSign,
    Finish,
    GroupEvent,
    GroupRound,
    GroupState,
    LeaveOut,
    OrderRelease,
    Replace,
    Reseal,
    move_group,
)
from learning.secagg.covered import contributors_in
from learning.secagg.errors import ParameterError
from learning.secagg.inner import InnerSet
from learning.secagg.sets import ContributorSet
from tests.support.conduct_bench import UPLOADS, Bench

E, S = GroupEvent, GroupState


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


def short_of_seats(gone: tuple[int, ...]) -> Bench:
    """Return a (4, 1) group that has lost three seats; one is replaced, unless they stored somebody's vector alone."""
    bench = Bench(4, 1, ring=2)
    bench.to_releasing("0")
    for count in range(1, 4):
        bench.know("0", unreachable=frozenset(f"{column}-0" for column in gone[:count]))
        bench.step(0.0)
    (living,) = set(range(4)) - set(gone)
    bench.share("0", living)
    return bench


@pytest.mark.parametrize(("progress", "end"), [(False, 3.0), (True, None)])
def test_a_new_seat_that_is_not_given_all_seeds_ends_its_group_unless_it_gets_more_of_them(progress, end):
    """Whoever had the seeds is gone: two asks without progress, and the group is left out by name."""
    bench = next(bench for gone in combinations(range(4), 3) if (bench := short_of_seats(gone)).rounds["0"].blank)
    (column,) = bench.rounds["0"].blank
    new, now = bench.tree.seat("0", column, 1), 0.0
    while bench.rounds["0"].state is S.RELEASING and now < 8.0:
        lacks = tuple(f"c{number}" for number in range(20 - int(now) if progress else 1))
        bench.know("0", heard={new: now}, missing={new: lacks})
        now += 1.0
        bench.step(now)
    if end is None:
        assert bench.rounds["0"].state is S.RELEASING
    else:
        assert (now, bench.rounds["0"].state) == (end, S.LEFT_OUT)
        assert "is not given all seeds" in str(bench.rounds["0"].reason)
