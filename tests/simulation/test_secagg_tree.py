"""Whole attempts in simulated time: the sum of whoever is in it, bit for bit, whatever dies and when."""

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learning.secagg.conduct_state import GroupState, OrderRelease
from learning.secagg.packing import pack
from learning.secagg.seeds import SUPPORTED, quorum
from tests.benchmarks import sim_failures
from tests.simulation.sim_clock import Prices
from tests.simulation.tree_simulator import Outcome, Scene, World, clear_total

RINGS = (8, 13, 20, 24, 31, 32, 64)
QUICK = Prices(latency=0.01, asymmetric=0.001)


def scene(**changes: Any) -> Scene:
    """Return a small tree of small vectors, on quick machines."""
    value: dict[str, Any] = {
        "contributors": 12,
        "workers": 30,
        "leaves": 4,
        "fan_out": 2,
        "vector_bytes": 20_000,
        "prices": QUICK,
        "limit": 60.0,
    }
    return Scene(**(value | changes))


def play(what: Scene) -> tuple[World, Outcome]:
    """Let an attempt happen; it ends in the exact sum of those who are in it, or with a reason."""
    world = World(what)
    found = world.run()
    assert found.reason != "the attempt's time is over"
    if found.reason is None:
        assert found.total is not None
        assert bytes(pack(found.total, what.k)) == bytes(clear_total(world, found.included))
    return world, found


@pytest.mark.parametrize("shape", SUPPORTED)
@pytest.mark.parametrize(("leaves", "fan_out"), [(1, 2), (2, 2), (5, 3)])
def test_without_failures_everybody_is_in_the_sum(shape, leaves, fan_out):
    """Every group form, from the star to three levels."""
    _, found = play(scene(shape=shape, leaves=leaves, fan_out=fan_out, workers=40))
    assert len(found.included) == 12


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), shape=st.sampled_from(SUPPORTED), k=st.sampled_from(RINGS), leaves=st.integers(1, 5))
def test_any_deaths_end_in_the_survivors_exact_sum_or_in_a_reason(data, shape, k, leaves):
    """Contributors and seats of every level die at any moment; nothing waits for ever, nothing is off by a bit."""
    n = leaves * data.draw(st.integers(2, 4))
    what = scene(contributors=n, leaves=leaves, fan_out=data.draw(st.integers(2, 3)), shape=shape, k=k)
    people = [f"c{number:05d}" for number in range(n)]
    seats = [f"w{number:05d}" for number in range(30)]
    times = st.floats(0.0, 1.5)
    dying = data.draw(st.dictionaries(st.sampled_from([*people, *seats, *seats]), times, max_size=8))
    seed, late = data.draw(st.integers(0, 99)), data.draw(st.booleans())
    copies = data.draw(st.integers(1, shape[0]))
    play(dataclasses.replace(what, deaths=dying, seed=seed, late_masks=late, copies=copies))


SURVIVABLE = [shape for shape in SUPPORTED if min(shape[0] - shape[1] - 1, shape[0] - quorum(*shape)) >= 1]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), shape=st.sampled_from(SURVIVABLE), k=st.sampled_from(RINGS))
def test_what_can_be_survived_is_survived_without_losing_a_contributor(data, shape, k):
    """As many seats of each leaf as seeds and quorum allow, and one seat of every inner group, die at any moment."""
    m, t = shape
    what = scene(shape=shape, k=k, seed=data.draw(st.integers(0, 99)), workers=60, straggle=5.0)
    tree = World(what).tree
    spare = min(m - t - 1, m - quorum(m, t))
    dying = {}
    for name in tree.names:
        lost = spare if tree.is_leaf(name) else 1
        for column in data.draw(st.sets(st.integers(0, m - 1), min_size=lost, max_size=lost)):
            dying[tree.seat(name, column)] = data.draw(st.floats(0.0, 1.0))
    _, found = play(dataclasses.replace(what, deaths=dying))
    assert found.reason is None
    assert len(found.included) == 12


def test_contributors_that_die_before_their_upload_are_left_out_and_nobody_else():
    """Three never begin: the sum is that of the nine others."""
    gone = {f"c{number:05d}": 0.0 for number in (1, 5, 9)}
    _, found = play(scene(deaths=gone, leaves=2))
    assert set(found.included) == {f"c{number:05d}" for number in range(12)} - set(gone)


def test_a_leaf_without_a_quorum_is_left_out_and_the_rest_is_summed():
    """Two seats of one (5, 2) leaf are gone from the start."""
    tree = World(scene()).tree
    gone = {tree.seat("0.0.0", column): 0.0 for column in (0, 1)}
    world, found = play(scene(deaths=gone))
    assert found.left_out == 1
    assert set(found.included) == {name for name, leaf in world.leaf_of.items() if leaf != "0.0.0"}


@pytest.mark.parametrize("column", [0, 2])
@pytest.mark.parametrize("moment", [0.425, 0.5, 0.55, 0.6])
def test_a_leaf_lost_while_its_share_goes_up_costs_nobody_else(column, moment):
    """Its vectors die with its seat, while the others' shares are there already: the leaf beside it stays in the sum."""
    what = scene(copies=1, vector_bytes=1_000_000, ping=0.05)
    victim = World(what).tree.seat("0.0.0", column)
    world, found = play(dataclasses.replace(what, deaths={victim: moment}))
    lost = {name for name, value in world.collector.rounds.items() if value.state is GroupState.LEFT_OUT}
    assert lost <= {"0.0.0"}
    assert set(found.included) == {name for name, leaf in world.leaf_of.items() if leaf not in lost}


def test_seeds_sealed_again_let_a_replacement_finish_what_the_seats_were_too_few_for():
    """(3, 2): every seed has one holder; a seat lost after agreement is replaced, nobody uploads again."""
    what = scene(shape=(3, 2), leaves=1, workers=9, copies=2, contributors=5, ping=None)
    world = World(what)
    victim = world.machine(world.tree.seat("0", 1))
    order = world.collector._order

    def order_and_die(action: OrderRelease) -> None:
        victim.dies = min(victim.dies, world.clock.now)
        order(action)

    world.collector._order = order_and_die  # type: ignore[method-assign]
    found = world.run()
    assert found.total is not None
    assert bytes(pack(found.total, what.k)) == bytes(clear_total(world, found.included))
    assert (len(found.included), found.replaced) == (5, 1)
    assert world.collector.rounds["0"].blank == {1}


@pytest.mark.parametrize("start", [0.0, 0.1, 0.2, 0.4])
def test_a_cut_network_that_heals_costs_time_and_nobody(start):
    """Half of the seats cannot be reached for a while: what was asked is asked again."""
    what = scene(ping=None, straggle=5.0)
    world = World(what)
    far = set(world.tree.columns[0]) | set(world.tree.columns[1])

    def cut(sender: str, receiver: str, now: float) -> bool:
        return start <= now < start + 0.25 and "collector" in (sender, receiver) and bool({sender, receiver} & far)

    world.network.cut = cut
    found = world.run()
    assert found.reason is None
    assert found.total is not None
    assert bytes(pack(found.total, what.k)) == bytes(clear_total(world, found.included))


def test_the_simulated_prices_are_the_published_ones():
    """33 ms, 6 MB/s, 50 us per kB, 10 ms: and ten rows, four published strategies each."""
    prices = Prices()
    assert (prices.latency, prices.bandwidth, prices.asymmetric) == (0.033, 6e6, 0.010)
    assert prices.per_byte * 1000 == pytest.approx(50e-6)
    assert len(sim_failures.ROWS) == 10
    assert all(len(row.published) == len(sim_failures.STRATEGIES) for row in sim_failures.ROWS)
    assert [sim_failures.workers_of(n) for n in (512, 4096)] == [438, 3510]
