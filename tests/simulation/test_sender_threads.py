"""The real sender threads: negotiations finish by themselves, restarts pick up what was left, stop is clean."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connector.drivers.outbox import Senders
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts.ports import Query
from contracts.processes import Kind
from tests.support.dataspace import Side, Wire, asking, dataset, open_side


def _clock() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side, list[Senders]]]:
    """Give two sides whose rows are sent by real threads, not yet started."""
    opened, wire, senders, found = [], Wire(), [], []
    for name in ("consumer", "provider"):
        url = f"sqlite:///{tmp_path / name}.sqlite"
        upgrade(url)
        opened.append(Database(url))
        bell = Senders(clock=_clock, threads=3, sweep_seconds=0.1)
        found.append(open_side(wire, opened[-1], name, _clock, doorbell=bell))  # type: ignore[arg-type]
        bell.serve(found[-1].service)
        senders.append(bell)
    found[1].service.catalog.publish(dataset())
    yield found[0], found[1], senders
    for bell in senders:
        bell.stop()
    for database in opened:
        database.close()


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "it never came to the end"
        time.sleep(0.02)


def _finalized(side: Side, count: int) -> bool:
    return len(side.store.processes(Kind.NEGOTIATION, Query(state="FINALIZED", limit=200)).items) == count


def test_a_burst_of_negotiations_finishes_by_itself(sides):
    """Thirty at once from several threads: all FINALIZED on both sides."""
    consumer, provider, senders = sides
    for bell in senders:
        bell.start()

    def burst() -> None:
        for _ in range(10):
            consumer.service.negotiations.request(provider.counterparty, asking(dataset()))

    threads = [threading.Thread(target=burst) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _until(lambda: _finalized(consumer, 30) and _finalized(provider, 30))


def test_what_was_queued_before_the_start_is_sent_after_it(sides):
    """Rows written while no sender ran carry no lease and go out with the first sweep; a transfer starts too."""
    consumer, provider, senders = sides
    started = consumer.service.negotiations.request(provider.counterparty, asking(dataset()))
    assert [row.lease for row in consumer.store.deliveries(started.pid)] == [None]
    for bell in senders:
        bell.start()
    _until(lambda: _finalized(consumer, 1))
    agreement = consumer.store.negotiation(started.pid).agreement
    transfer = consumer.service.transfers.request(agreement.id, "FederatedTraining")
    _until(lambda: consumer.store.transfer(transfer.pid).state == "STARTED")


def test_stop_ends_every_thread(sides):
    """Nothing runs on after stop."""
    _, _, senders = sides
    before = threading.active_count()
    senders[0].start()
    assert threading.active_count() > before
    senders[0].stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dsp-") and thread.is_alive()]


def test_what_falls_due_is_done_then_and_not_with_the_next_sweep():
    """A retry or a question for later wakes the senders at its own time, however many are pending."""
    bell = Senders(clock=_clock, threads=1, sweep_seconds=30.0)
    looks: list[datetime] = []

    class Delivery:
        """Notes when it is asked."""

        def lease_due(self, _limit: int, _skip: frozenset[str]) -> tuple[()]:
            looks.append(_clock())
            return ()

        def due_behaviours(self, _limit: int) -> tuple[()]:
            return ()

    bell.serve(type("Service", (), {"delivery": Delivery()})())
    bell.start()
    _until(lambda: len(looks) == 1)
    begun = _clock()
    for seconds in (0.3, 0.1, 0.2):
        bell.later(begun + timedelta(seconds=seconds))
    _until(lambda: len(looks) == 4)
    bell.stop()
    for look, seconds in zip(looks[1:], (0.1, 0.2, 0.3), strict=True):
        assert look >= begun + timedelta(seconds=seconds)
        assert look < begun + timedelta(seconds=seconds + 10)
