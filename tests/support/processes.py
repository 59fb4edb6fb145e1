"""Real processes of a participant on loopback."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ORCHARD = Path(sys.executable).parent / "orchard"


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A serving process, and how long it took until it was ready."""

    process: subprocess.Popen[bytes]
    url: str
    seconds_to_ready: float

    @property
    def resident_megabytes(self) -> float:
        """Resident memory now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    @property
    def cpu_seconds(self) -> float:
        """Processor time used so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextlib.contextmanager
def served(command: list[str], url: str, ready: str, log: Path) -> Iterator[Served]:
    """Run a serving command until ``ready`` below ``url`` answers 200; interrupt it at the end."""
    started = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() - started > 60:
                raise AssertionError(f"not ready: {log.read_text()[-2000:]}")
            time.sleep(0.01)
        yield Served(process=process, url=url, seconds_to_ready=time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def read_json(url: str, token: str = "") -> object:
    """Return the JSON at ``url``, asked for with a bearer token."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - loopback
        return json.load(answer)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
            return int(answer.status) == 200
    except urllib.error.HTTPError as refusal:
        # A refusal is an answer that holds its socket until it is closed.
        refusal.close()
        return False
    except OSError:
        return False


def leftovers(folder: Path) -> list[str]:
    """Return the command lines of processes that name ``folder`` or stand in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in command or (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(f"{entry.name}: {command}")
    return found


def wait_for_line(log: Path, words: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a process has written ``words`` into its log."""
    deadline = time.monotonic() + seconds
    while words not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.05)
