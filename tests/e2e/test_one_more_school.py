"""The README's section "One more school", typed as it stands: a stranger joins the running demo and trains with it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ORCHARD, free_port, leftovers, wait_for_line

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

_README = Path(__file__).parents[2] / "README.md"
_SECONDS = 120


def blocks() -> list[list[str]]:
    """Return the commands of each shell block of the section, continuation lines joined, comments left out."""
    section = re.search(
        r"^## One more school\n(.*?)^## ", _README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section is not None
    found = []
    for block in re.findall(r"```sh\n(.*?)```", section[1], re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found.append([line for line in lines if line and not line.startswith("#")])
    return found


class Terminal:
    """A shell in one folder; what is started with ``&`` is stopped at the end."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = port
        self._environment = os.environ | {"PATH": f"{ORCHARD.parent}{os.pathsep}{os.environ['PATH']}"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, line: str) -> subprocess.Popen[bytes]:
        """Run a line in the background; its words go to ``background.log``."""
        with (self.folder / "background.log").open("ab") as log:
            command = ["bash", "-c", "exec " + line.replace("8199", str(self._port))]
            process = subprocess.Popen(command, cwd=self.folder, env=self._environment, stdout=log, stderr=log)
        self._started.append(process)
        return process

    def type(self, line: str) -> str:
        """Run a line and return what it printed; it must succeed."""
        if line.endswith("&"):
            self.start(line.removesuffix("&"))
            return ""
        done = subprocess.run(
            ["bash", "-c", line.replace("8199", str(self._port))],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def close(self) -> None:
        """Stop what still runs, the latest first."""
        for process in reversed(self._started):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(timeout=30)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path, free_port())
    yield opened
    opened.close()
    assert leftovers(tmp_path) == []


def test_one_more_school_joins_by_the_readme(terminal: Terminal) -> None:
    """The README's commands, in their order, bring a fourth school into every round of the next job."""
    (demo,), school, provider = blocks()
    running = terminal.start(demo.partition("#")[0] + "--rounds 2")
    wait_for_line(terminal.folder / "background.log", "Everything keeps running", running, _SECONDS)
    for line in school:
        terminal.type(line)
    _until_it_answers(terminal, provider[0])
    for line in provider[1:]:
        terminal.type(line)
    job: dict[str, Any] = json.loads(terminal.type("orchard job show space/ai-provider --json"))
    assert job["state"] == "COMPLETED"
    assert "School dogwood" in {member["name"] for member in job["members"]}
    assert [len(one["contributors"]) for one in job["rounds"]] == [4, 4, 4]
    assert (terminal.folder / "four-schools" / "model.safetensors").stat().st_size > 0
    assert len(json.loads(terminal.type("orchard tree show space/ai-provider --json"))["contributors"]) == 4


def _until_it_answers(terminal: Terminal, line: str) -> None:
    """Type a line again until the API that was started a moment ago answers, as a person would."""
    deadline = time.monotonic() + 30
    while True:
        try:
            terminal.type(line)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return
