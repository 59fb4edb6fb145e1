"""Groups above leaves: what is asked of their seats, in which order, and what a loss costs."""

import pytest

from learning.secagg.conduct_state import (
    Abort,
    AskToSign,
    Finish,
    GroupState,
    LeaveOut,
    OrderRelease,
    Replace,
    Resend,
)
from learning.secagg.inner import InnerSet
from tests.support.conduct_bench import UPLOADS, Bench

S = GroupState


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


def test_who_has_signed_holds_what_it_signed():
    """A seat that signs where it was only asked what it lacks, as one of an earlier version does, is not asked for ever."""
    bench = two_leaves()
    bench.hold("0", 0, 1)
    bench.sign("0", 2)
    actions = bench.step(0.1).actions
    assert bench.rounds["0"].state is S.SIGNING
    assert actions == (AskToSign(group="0", column=0), AskToSign(group="0", column=1))


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
