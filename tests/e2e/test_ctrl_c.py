"""Stopping the demo: by Ctrl-C, by SIGTERM, and by pulling the plug; nothing of it is left."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ORCHARD, leftovers, wait_for_line

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

_STARTING, _MEETING, _TRAINING = "each published a dataset", "shows a membership", "training begins"


class Demo:
    """A running ``orchard demo`` whose participants live below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "demo.log"
        self.out = folder / "out"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [ORCHARD, "demo", "--rounds", "40", "--out", self.out],
                env=os.environ | {"TMPDIR": str(folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for(self, words: str) -> None:
        """Wait until the demo says ``words``."""
        wait_for_line(self.log, words, self.process, 120)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    running = Demo(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        (_STARTING, signal.SIGINT),
        (_MEETING, signal.SIGTERM),
        (_TRAINING, signal.SIGINT),
    ],
)
def test_stop(demo: Demo, tmp_path: Path, moment: str, sent: signal.Signals) -> None:
    """A signal ends the demo within five seconds; no process, no participant's folder and no result is left."""
    demo.wait_for(moment)
    if moment == _STARTING:
        time.sleep(1.5)
    started = time.monotonic()
    demo.process.send_signal(sent)
    demo.process.send_signal(sent)
    status = demo.process.wait(timeout=30)
    assert time.monotonic() - started < 5 * _crowd()
    assert leftovers(tmp_path) == []
    assert status == 130
    assert "nothing is left running" in demo.log.read_text()
    assert "Traceback" not in demo.log.read_text()
    assert not demo.out.exists()
    assert not list(tmp_path.glob("orchard-demo-*"))


def _crowd() -> float:
    """Return how many times slower than alone we run: others may use the same processors."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.parametrize("moment", [_STARTING, _TRAINING])
def test_kill(demo: Demo, tmp_path: Path, moment: str) -> None:
    """When the demo itself is killed, its participants end by themselves within seconds, the fork server too."""
    demo.wait_for(moment)
    if moment == _STARTING:
        time.sleep(1.5)
    demo.process.kill()
    demo.process.wait()
    deadline = time.monotonic() + 15
    while (left := leftovers(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert not demo.out.exists()
