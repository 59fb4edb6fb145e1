"""Whose turn it is among lanes of work, and which peers are left alone for how long."""

import threading
from datetime import UTC, datetime, timedelta

from connector.drivers.outbox_lanes import Lanes
from contracts.standing import PeerStandings

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _taken(lanes: Lanes[int], count: int) -> list[tuple[str, int] | None]:
    return [lanes.take(0) for _ in range(count)]


def test_lanes_take_turns():
    """Ten pieces for one peer, queued first, do not go before another peer's one."""
    lanes = Lanes[int](lambda _: 4)
    for number in range(10):
        lanes.put("a", number)
    lanes.put("b", 100)
    assert _taken(lanes, 4) == [("a", 0), ("b", 100), ("a", 1), ("a", 2)]


def test_a_lane_at_its_limit_waits_until_something_is_done():
    """No more than the limit is in hand; each piece that is done makes room for one."""
    limits = {"a": 2}
    lanes = Lanes[int](lambda key: limits[key])
    for number in range(5):
        lanes.put("a", number)
    assert _taken(lanes, 3) == [("a", 0), ("a", 1), None]
    lanes.done("a")
    assert _taken(lanes, 2) == [("a", 2), None]
    limits["a"] = 1
    lanes.done("a")
    assert _taken(lanes, 1) == [None]
    lanes.done("a")
    assert _taken(lanes, 2) == [("a", 3), None]
    lanes.done("a")
    assert _taken(lanes, 1) == [("a", 4)]


def test_putting_says_when_nobody_is_free():
    """Only work that could start now and finds nobody waiting asks for another hand."""
    lanes = Lanes[int](lambda _: 1)
    assert lanes.put("a", 1) is True
    assert lanes.take(0) == ("a", 1)
    assert lanes.put("a", 2) is False
    took: list[object] = []
    waiting = threading.Thread(target=lambda: took.append(lanes.take(20)))
    waiting.start()
    while lanes._idle == 0:
        pass
    assert lanes.put("b", 3) is False
    waiting.join()
    assert took == [("b", 3)]


def test_crowded_lanes_are_named_and_empty_ones_forgotten():
    """What waits is counted, not what is in hand; a lane that is done with leaves nothing behind."""
    lanes = Lanes[int](lambda _: 1)
    for number in range(3):
        lanes.put("a", number)
    assert lanes.crowded(2) == {"a"}
    assert lanes.take(0) == ("a", 0)
    assert lanes.crowded(2) == frozenset()
    for _ in range(3):
        lanes.done("a")
        lanes.take(0)
    assert lanes._lanes == {}


def test_closing_sends_everybody_home():
    """Whoever waits gets nothing, at once; what waits in a lane is there when it opens again."""
    lanes = Lanes[int](lambda _: 1)
    threads = [threading.Thread(target=lanes.take) for _ in range(3)]
    for thread in threads:
        thread.start()
    lanes.close()
    for thread in threads:
        thread.join(20)
    lanes.put("a", 1)
    assert lanes.take(0) is None
    lanes.open()
    assert lanes.take(0) == ("a", 1)


def test_a_silent_peer_is_left_alone_for_longer_each_time():
    """Pauses double up to the longest; an answer ends them and forgets the past."""
    standings = PeerStandings(first_seconds=1.0, longest_seconds=4.0)
    at, pauses = NOW, []
    for _ in range(4):
        until = standings.silent("p", at)
        pauses.append((until - at).total_seconds())
        assert standings.quiet_until("p", at) == until
        assert standings.quiet_until("p", until) is None
        assert standings.in_trouble("p")
        at = until
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    standings.answered("p", timedelta(seconds=0.1))
    assert not standings.in_trouble("p")
    assert standings.silent("p", at) == at + timedelta(seconds=1)


def test_calls_that_fail_together_are_one_silence():
    """Four calls under way to a peer that dies do not make its pause sixteen times as long."""
    standings = PeerStandings(first_seconds=1.0)
    until = standings.silent("p", NOW)
    assert [standings.silent("p", NOW + timedelta(seconds=0.5)) for _ in range(3)] == [None, None, None]
    assert standings.quiet_until("p", NOW) == until
    assert standings.quiet_until("q", NOW) is None


def test_a_slow_peer_is_in_trouble_and_not_left_alone():
    """Slow answers cost it threads, not messages; a quick one puts it right."""
    standings = PeerStandings(slow_seconds=2.0)
    standings.answered("p", timedelta(seconds=3))
    assert standings.in_trouble("p")
    assert standings.quiet_until("p", NOW) is None
    standings.answered("p", timedelta(seconds=1))
    assert not standings.in_trouble("p")


def test_only_so_many_peers_in_trouble_are_remembered():
    """The oldest is forgotten first."""
    standings = PeerStandings(most=2)
    for peer in ("a", "b", "c"):
        standings.silent(peer, NOW)
    assert [standings.in_trouble(peer) for peer in ("a", "b", "c")] == [False, True, True]
