"""``orchard serve`` as a process: it starts, serves, shares nothing, and stops."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.settings import Settings
from tests.support.participants import enrol
from tests.support.processes import ORCHARD, Served, free_port, read_json, served

pytestmark = pytest.mark.e2e


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return enrol(tmp_path / "north", tmp_path / "space", name="north", port=free_port())


@pytest.fixture
def north(settings: Settings, tmp_path: Path) -> Iterator[Served]:
    command = [str(ORCHARD), "serve", str(settings.folder)]
    with served(command, settings.server.public_url, "/health/ready", tmp_path / "log") as running:
        yield running


def test_a_participant_is_ready_small_and_without_torch(north: Served) -> None:
    """The API process gets ready by itself, stays under 150 MB and maps no torch library (its time: `make bench`)."""
    assert read_json(north.url + "/health/ready")["status"] == "ready"  # type: ignore[index]
    assert north.resident_megabytes < 150
    assert "torch" not in Path(f"/proc/{north.process.pid}/maps").read_text()


def test_a_port_in_use_is_one_sentence(north: Served, settings: Settings) -> None:
    """A second process on the same port ends at once with a sentence that names the port, and the first serves on."""
    second = subprocess.run(
        [ORCHARD, "serve", settings.folder], capture_output=True, text=True, check=False, timeout=60
    )
    assert second.returncode == 2
    assert f"port {settings.server.port} on 127.0.0.1 is in use by another process" in second.stderr
    assert "Traceback" not in second.stderr
    assert read_json(north.url + "/health/live") == {"status": "live"}


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_soon(north: Served, sent: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the process within five seconds, even with a connection held open."""
    started = time.monotonic()
    north.process.send_signal(sent)
    north.process.wait(timeout=30)
    assert time.monotonic() - started < 5


def test_two_participants_meet_over_loopback(north: Served, settings: Settings, tmp_path: Path) -> None:
    """A participant whose configuration names another's address gets to know it without an operator's help."""
    south = enrol(tmp_path / "south", tmp_path / "space", name="south", port=free_port())
    south.file.write_text(south.file.read_text().replace("addresses = []", f'addresses = ["{north.url}"]'))
    token = south.management.token_file.read_text().strip()
    command = [str(ORCHARD), "serve", str(south.folder)]
    with served(command, south.server.public_url, "/health/ready", tmp_path / "south.log") as running:
        deadline = time.monotonic() + 20
        while not (peers := read_json(running.url + "/management/peers", token)["peers"]):  # type: ignore[index]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert [one["participant_id"] for one in peers] == [settings.participant.id]
