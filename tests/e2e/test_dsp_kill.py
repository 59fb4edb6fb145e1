"""kill -9 at each commit of a negotiation and of a transfer, either role: after a restart it comes to the same end.

The participants are reused over the cases, and forked from a process that has imported everything, so that the whole
matrix takes a minute or two.
"""

import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.demo.broker import start_broker, write_broker_configuration
from tests.support.killable import DATASET, Killable, gone, two_killable, until
from tests.support.processes import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
Pair = dict[str, Killable]
NEGOTIATION = [
    "ContractRequestMessage",
    "ContractAgreementMessage",
    "ContractAgreementVerificationMessage",
    "ContractNegotiationEventMessage:FINALIZED",
]
TRANSFER = ["TransferRequestMessage", "TransferStartMessage", "TransferCompletionMessage"]
# How many commits each role makes; a test compares them with what an undisturbed run makes.
NEGOTIATION_COMMITS = {"consumer": 5, "provider": 4}
TRANSFER_COMMITS = {"consumer": 11, "provider": 9}


def _cases(commits: dict[str, int]) -> list[tuple[str, int, str]]:
    return [
        (role, nth, when)
        for role, count in commits.items()
        for nth in range(1, count + 1)
        for when in ("before", "after")
    ]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Give a consumer and a provider on each database in turn."""
    create = request.getfixturevalue("postgresql_server") if request.param == "postgresql" else None
    with two_killable(tmp_path_factory.mktemp("kill"), create) as pair:
        yield pair


@pytest.fixture(scope="module")
def agreed(both: Pair) -> str:
    """Return an agreement between the two."""
    return _negotiate(both)


def _mended(both: Pair) -> None:
    """Start again what has died."""
    for one in both.values():
        if gone(one.pid, 0):
            one.start()


def _ask(both: Pair, role: str, path: str, body: object, taken: Callable[[], bool]) -> None:
    """Send an operator's command; one that was answered with silence and had no effect is sent again."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        both[role].call("POST", path, body)
    if gone(both[role].pid, 0) or gone(both[role].pid, 0.05):
        _mended(both)
    if not taken():
        both[role].call("POST", path, body)


def _newest(one: Killable, kind: str) -> tuple[str, str]:
    """Return pid and state of the newest process of a kind."""
    rows = one.rows(
        "SELECT pid, state FROM dsp_processes WHERE kind = :kind ORDER BY created_at DESC LIMIT 1", kind=kind
    )
    return rows[0] if rows else ("", "")  # type: ignore[return-value] # two texts


def _reach(both: Pair, kind: str, state: str) -> None:
    """Mend what dies until the newest process of a kind is in a state on both sides."""

    def there() -> bool:
        _mended(both)
        return all(_newest(one, kind)[1] == state for one in both.values())

    until(
        there,
        60,
        lambda: [one.rows("SELECT step, status, attempts, last_answer FROM dsp_outbox") for one in both.values()],
    )


def _settled(both: Pair) -> None:
    """Wait until nothing is left to say or to ask."""
    queued = "SELECT 1 FROM dsp_outbox WHERE status = 'queued' UNION ALL SELECT 1 FROM dsp_processes WHERE act_at IS NOT NULL"

    def quiet() -> bool:
        _mended(both)
        return not any(one.rows(queued) for one in both.values())

    until(quiet)


def _negotiate(both: Pair) -> str:
    """Negotiate; returns the agreement's id."""
    consumer = both["consumer"]
    before = _newest(consumer, "negotiation")[0]
    wanted = {
        "participant_id": both["provider"].settings.participant.id,
        "dataset_id": DATASET["id"],
        "offer": DATASET["offer"],
    }
    _ask(both, "consumer", "/management/negotiations", wanted, lambda: _newest(consumer, "negotiation")[0] != before)
    _reach(both, "negotiation", "FINALIZED")
    _settled(both)
    pid = _newest(consumer, "negotiation")[0]
    return str(consumer.rows("SELECT id FROM dsp_agreements WHERE negotiation_pid = :pid", pid=pid)[0][0])


def _transfer(both: Pair, agreement: str) -> None:
    """Ask for a transfer, see it started, and complete it."""
    consumer = both["consumer"]
    before = _newest(consumer, "transfer")[0]
    wanted = {"agreement_id": agreement, "format": "FederatedTraining"}
    _ask(both, "consumer", "/management/transfers", wanted, lambda: _newest(consumer, "transfer")[0] != before)
    _reach(both, "transfer", "STARTED")
    pid = _newest(consumer, "transfer")[0]
    done = f"/management/transfers/{pid}/complete"
    _ask(both, "consumer", done, None, lambda: _newest(consumer, "transfer")[1] == "COMPLETED")
    _reach(both, "transfer", "COMPLETED")
    _settled(both)


def _check(both: Pair, kind: str, steps: list[str]) -> None:
    """Each step happened once on each side, and what one sent is what the other took, under the same ids."""
    pids = {role: _newest(one, kind)[0] for role, one in both.items()}
    for role, one in both.items():
        events = [
            step for (step,) in one.rows("SELECT step FROM dsp_events WHERE pid = :pid ORDER BY seq", pid=pids[role])
        ]
        assert events == steps
        peer = one.rows("SELECT peer_pid FROM dsp_processes WHERE pid = :pid", pid=pids[role])
        assert peer == [(pids["provider" if role == "consumer" else "consumer"],)]
    for role, other in (("consumer", "provider"), ("provider", "consumer")):
        sent = both[role].rows("SELECT message_id, status FROM dsp_outbox WHERE pid = :pid", pid=pids[role])
        taken = both[other].rows("SELECT message_id FROM dsp_receipts WHERE pid = :pid", pid=pids[other])
        # Dropped: the peer had taken it and gone on to the end before its answer could be written down.
        assert {status for _, status in sent} <= {"sent", "dropped"}
        assert sorted(name for name, _ in sent) == sorted(name for (name,) in taken)


def test_the_matrix_has_every_commit(both: Pair, agreed: str) -> None:
    """An undisturbed negotiation and transfer make no more commits than there are cases."""
    runs: list[tuple[dict[str, int], Callable[[], Any]]] = [
        (NEGOTIATION_COMMITS, lambda: _negotiate(both)),
        (TRANSFER_COMMITS, lambda: _transfer(both, agreed)),
    ]
    for expected, run in runs:
        for one in both.values():
            one.order(nth=0, when="never")
        run()
        for role, one in both.items():
            one.forget_order()
            assert len(one.commits()) <= expected[role], one.commits()
    _check(both, "negotiation", NEGOTIATION)
    _check(both, "transfer", TRANSFER)


@pytest.mark.parametrize(("victim", "nth", "when"), _cases(NEGOTIATION_COMMITS))
def test_a_killed_participant_comes_to_the_same_agreement(both: Pair, victim: str, nth: int, when: str) -> None:
    """Whichever commit it dies at: FINALIZED on both sides once, one agreement, and no message under two ids."""
    before = both["consumer"].rows("SELECT count(*) FROM dsp_processes WHERE kind = 'negotiation'")[0][0]
    both[victim].order(nth=nth, when=when)
    agreement = _negotiate(both)
    both[victim].forget_order()
    for one in both.values():
        assert one.rows("SELECT count(*) FROM dsp_processes WHERE kind = 'negotiation'") == [(before + 1,)]
    _check(both, "negotiation", NEGOTIATION)
    digests = [one.rows("SELECT digest FROM dsp_agreements WHERE id = :id", id=agreement) for one in both.values()]
    assert digests[0] == digests[1] != []


@pytest.mark.parametrize(("victim", "nth", "when"), _cases(TRANSFER_COMMITS))
def test_a_killed_participant_comes_to_the_same_transfer(
    both: Pair, agreed: str, victim: str, nth: int, when: str
) -> None:
    """Whichever commit it dies at: started once, completed once, and no message lost or under two ids."""
    both[victim].order(nth=nth, when=when)
    _transfer(both, agreed)
    both[victim].forget_order()
    _check(both, "transfer", TRANSFER)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def rung(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pair, Callable[[], None], Callable[[], None]]]:
    """Give a pair with a broker, and what kills (and starts again) the broker and both workers."""
    create = request.getfixturevalue("postgresql_server") if request.param == "postgresql" else None
    folder, port = tmp_path_factory.mktemp("rung"), free_port()
    (folder / "broker").mkdir()
    urls = write_broker_configuration(folder / "broker", port, ["orchard"])
    broker = [start_broker(folder / "broker", port)]

    def kill_broker() -> None:
        broker[0].kill()
        broker[0].wait(30)
        broker[0] = start_broker(folder / "broker", port)

    try:
        with two_killable(folder, create, broker_url=urls["orchard"]) as pair:
            for one in pair.values():
                one.start_worker()

            def kill_workers() -> None:
                for one in pair.values():
                    os.kill(one.worker, signal.SIGKILL)
                    assert gone(one.worker, 30)
                    one.start_worker()

            yield pair, kill_broker, kill_workers
    finally:
        broker[0].kill()
        broker[0].wait(30)


@contextlib.contextmanager
def _letting_go_on(one: Killable, strike: Callable[[], None]) -> Iterator[None]:
    """Whenever a process has stopped itself, strike, and let it go on."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            if Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                strike()
                os.kill(one.pid, signal.SIGCONT)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        one.forget_order()
        ended.set()
        watching.join()
        os.kill(one.pid, signal.SIGCONT)


@pytest.mark.parametrize("stopped", ["consumer", "provider"])
def test_broker_and_workers_die_at_each_step_of_a_transfer(
    rung: tuple[Pair, Callable[[], None], Callable[[], None]], stopped: str
) -> None:
    """Before each commit of a transfer, either role, the broker or the workers are killed: the transfer never notices."""
    pair, kill_broker, kill_workers = rung
    agreement = _negotiate(pair)
    one = pair[stopped]
    strikes: list[int] = []

    def strike() -> None:
        (kill_workers if len(strikes) % 2 else kill_broker)()
        strikes.append(1)

    one.order(every=True)
    with _letting_go_on(one, strike):
        _transfer(pair, agreement)
    # Threads that come to a commit together are stopped together; broker and workers have both been killed.
    assert len(strikes) >= 2
    _check(pair, "transfer", TRANSFER)
