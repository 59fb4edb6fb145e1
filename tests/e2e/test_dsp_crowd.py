"""Callers that only hold connections or hang up, no broker and no worker: negotiations and transfers go on."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_dsp_kill import _check, _negotiate, _transfer
from tests.support.killable import Killable, two_killable

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
IDLE = 500


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Killable]]:
    """Give two serving participants without a broker or a worker."""
    create = request.getfixturevalue("postgresql_server") if request.param == "postgresql" else None
    with two_killable(tmp_path_factory.mktemp("crowd"), create) as pair:
        yield pair


def _connect(one: Killable) -> socket.socket:
    return socket.create_connection(("127.0.0.1", one.settings.server.port), timeout=30)


def test_serving_alone_negotiates_and_transfers(both: dict[str, Killable]) -> None:
    """Nothing on the way to an agreement or a transfer needs a broker or a worker."""
    assert all(not one.settings.broker.url and not one.worker for one in both.values())
    _transfer(both, _negotiate(both))
    _check(both, "transfer", ["TransferRequestMessage", "TransferStartMessage", "TransferCompletionMessage"])


@pytest.mark.parametrize(
    "said", [b"", b"POST /dsp/2025-1/negotiations/request HTTP/1.1\r\nhost: x\r\ncontent-length: 9"]
)
def test_idle_connections_cost_nobody_a_turn(both: dict[str, Killable], said: bytes) -> None:
    """Five hundred connections to each side that say nothing, or half a request, take no thread from anybody."""
    with contextlib.ExitStack() as open_:
        for one in both.values():
            for _ in range(IDLE):
                open_.enter_context(_connect(one)).sendall(said)
        for _ in range(3):
            _transfer(both, _negotiate(both))


def test_callers_that_hang_up_stop_nobody(both: dict[str, Killable]) -> None:
    """A body that is cut off by a closed connection is no error of ours, and holds up no other request."""
    log = Path(both["provider"].settings.folder / "serve.log")
    for _ in range(20):
        with _connect(both["provider"]) as caller:
            caller.sendall(b"POST /dsp/2025-1/transfers/request HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{")
            time.sleep(0.01)
    began = time.monotonic()
    assert both["provider"].call("GET", "/management/datasets")
    assert time.monotonic() - began < 10
    _negotiate(both)
    assert "unexpected-error" not in log.read_text()
