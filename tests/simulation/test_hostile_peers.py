"""Real sender threads and real sockets: whatever one peer does, the others' negotiations go on."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from connector.drivers.outbox import Senders
from connector.drivers.wire import PeerWire
from connector.peers.client import PeerClient
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts.ports import PeerAnswer, PeerCalls, Query
from contracts.processes import Counterparty, Kind, OutboxStatus
from tests.support.dataspace import Line, Side, Wire, asking, dataset, open_side
from tests.support.hostile_peer import HUGE, HostilePeer

HOSTILE = "did:web:hostile.example"
WAITING = 40
SECONDS = 1.0
MANNERS = {
    "never": "in time",
    "slow_head": "in time",
    "slow_body": "in time",
    "endless_body": "in time",
    "huge": "more than 65536 bytes",
    "huge_announced": "more than 65536 bytes",
    "huge_chunks": "more than 65536 bytes",
    "garbage": "cannot be read",
    "hang_up": "closed the connection",
    "broken": "",
}


class _Nobody:
    def authorization(self, _audience: str) -> str:
        return "Bearer nobody"


class _Street(Wire):
    """The wire between the sides in memory; every other address is called over sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.client = PeerClient(issuer=_Nobody(), permits=lambda _: True)
        self.sockets = PeerWire(self.client, seconds=SECONDS)

    def calls(self, sender: str) -> PeerCalls:  # type: ignore[override] # a line, or the street
        return _House(Line(self, sender), self.sockets)


class _House:
    def __init__(self, inside: Line, outside: PeerWire) -> None:
        self._inside, self._outside = inside, outside

    def call(
        self,
        method: str,
        url: str,
        *,
        audience: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> PeerAnswer:
        way = self._outside if urlsplit(url).hostname == "127.0.0.1" else self._inside
        return way.call(method, url, audience=audience, body=body, headers=headers, max_bytes=max_bytes)


def _clock() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def street(database: Database, tmp_path: Path) -> Iterator[tuple[Side, Side, _Street]]:
    """Give a consumer on each database in turn, a good provider, and the street; the senders of both run."""
    url = f"sqlite:///{tmp_path / 'provider.sqlite'}"
    upgrade(url)
    wire, other, bells, sides = _Street(), Database(url), [], []
    for name, place in (("consumer", database), ("provider", other)):
        bells.append(Senders(clock=_clock, sweep_seconds=0.2))
        sides.append(open_side(wire, place, name, _clock, doorbell=bells[-1]))  # type: ignore[arg-type]
        bells[-1].serve(sides[-1].service)
    sides[1].service.catalog.publish(dataset())
    for bell in bells:
        bell.start()
    yield sides[0], sides[1], wire
    for bell in bells:
        bell.stop()
    wire.client.close()
    other.close()


@pytest.fixture
def hostile(request: pytest.FixtureRequest) -> Iterator[HostilePeer]:
    """Give a peer that behaves as the test's parameter says."""
    peer = HostilePeer(request.param)
    yield peer
    peer.close()


def _until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came to the end"
        time.sleep(0.02)


def _finalized(side: Side) -> int:
    return len(side.store.processes(Kind.NEGOTIATION, Query(state="FINALIZED", limit=200)).items)


def _begin(consumer: Side, peer: HostilePeer | Side, count: int) -> list[str]:
    other = peer.counterparty if isinstance(peer, Side) else Counterparty(participant_id=HOSTILE, address=peer.url)
    return [consumer.service.negotiations.request(other, asking(dataset())).pid for _ in range(count)]


@pytest.mark.parametrize("hostile", MANNERS, indirect=True)
def test_one_bad_peer_holds_nobody_else_up(street, hostile: HostilePeer, request: pytest.FixtureRequest) -> None:
    """With forty messages for it queued first, ten negotiations with a good peer finish while it still has most of them.

    It never has more than a few of our threads, is left alone with everything once it has failed to answer, and is read
    no further than an answer can be long; what it did stands in words beside each message.
    """
    consumer, provider, _ = street
    stuck = _begin(consumer, hostile, WAITING)
    _until(lambda: hostile.asked > 0)
    _begin(consumer, provider, 10)
    _until(lambda: _finalized(consumer) == 10, 30)
    waiting = [row for pid in stuck for row in consumer.store.deliveries(pid) if row.status is OutboxStatus.QUEUED]
    assert len(waiting) == WAITING
    assert hostile.most_at_once <= 4
    manner = request.node.callspec.params["hostile"]
    if manner != "broken":
        # One silence is enough for all: not every message tries for itself.
        assert hostile.asked < WAITING
        _until(lambda: any(MANNERS[manner] in (row.last_answer or "") for row in _queued(consumer, stuck)))
    assert hostile.sent < hostile.asked * HUGE / 20


def _queued(side: Side, pids: list[str]) -> list:
    return [row for pid in pids for row in side.store.deliveries(pid) if row.last_status is None]


@pytest.mark.parametrize("hostile", ["html"], indirect=True)
def test_rubbish_with_a_good_status_is_a_confirmation_without_a_pid(street, hostile: HostilePeer) -> None:
    """What a peer adds to 200 is not needed: the message counts as taken, and its next message tells its pid."""
    consumer, _, _ = street
    (pid,) = _begin(consumer, hostile, 1)
    _until(lambda: consumer.store.deliveries(pid)[0].status is OutboxStatus.SENT)
    assert consumer.store.negotiation(pid).peer_pid is None


def test_many_bad_peers_hold_nobody_up(street) -> None:
    """Twenty silent peers at once are more than there are senders; more are started, and the good peer is served."""
    consumer, provider, _ = street
    peers = [HostilePeer("never") for _ in range(20)]
    try:
        for number, peer in enumerate(peers):
            other = Counterparty(participant_id=f"{HOSTILE}:{number}", address=peer.url)
            consumer.service.negotiations.request(other, asking(dataset()))
        _until(lambda: all(peer.asked for peer in peers))
        _begin(consumer, provider, 5)
        _until(lambda: _finalized(consumer) == 5, 30)
    finally:
        for peer in peers:
            peer.close()


def test_a_peer_that_recovers_gets_everything(street) -> None:
    """Once it answers again, what was held back goes out, to the last message, each under the id it had."""
    consumer, provider, wire = street
    wire.fate = lambda _method, url, _body: "drop" if url.startswith(provider.address) else "deliver"
    pids = _begin(consumer, provider, 30)
    _until(lambda: all(_put_off(consumer, pid) for pid in pids))
    wire.fate = lambda *_: "deliver"
    _until(lambda: _finalized(consumer) == 30)
    for pid in pids:
        rows = consumer.store.deliveries(pid)
        assert len({row.step for row in rows}) == len(rows) == len({row.message_id for row in rows})


def _put_off(side: Side, pid: str) -> bool:
    (row,) = side.store.deliveries(pid)
    return row.due_at > row.created_at


def test_senders_leave_no_thread_behind(street) -> None:
    """Threads that were started for a rush end by themselves; stop ends the rest."""
    consumer, _, _ = street
    peers = [HostilePeer("broken") for _ in range(12)]
    for number, peer in enumerate(peers):
        other = Counterparty(participant_id=f"{HOSTILE}:{number}", address=peer.url)
        consumer.service.negotiations.request(other, asking(dataset()))
    _until(lambda: all(peer.asked for peer in peers))
    for peer in peers:
        peer.close()
    _until(lambda: sum(thread.name.startswith("dsp-sender") for thread in threading.enumerate()) <= 2 * 7, 30)
