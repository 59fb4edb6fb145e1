"""Participants that are killed and started again: two of them, on either database, reused over every case."""

import contextlib
import dataclasses
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from connector.settings import Settings
from connector.storage.database import Database
from tests.support.crashing import COMMITS, ORDER
from tests.support.participants import enrol
from tests.support.processes import free_port, read_json

RULES = {
    "permission": [
        {
            "action": "use",
            "constraint": [
                {"leftOperand": "purpose", "operator": "eq", "rightOperand": "https://w3id.org/dpv#AcademicResearch"}
            ],
        }
    ]
}
DATASET = {
    "id": "urn:dataset:algebra",
    "title": "Algebra",
    "formats": ["FederatedTraining"],
    "offer": {"@id": "urn:offer:algebra", **RULES},
}


class Nursery:
    """Forks processes from one that has imported everything."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crashing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def start(self, folder: Path, run: str) -> int:
        """Start ``serve`` or ``worker`` for a participant's folder; returns the process id."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps({"folder": str(folder), "run": run}) + "\n")
        self._parent.stdin.flush()
        return int(self._read())

    def close(self) -> None:
        """End it; what it started ends with it."""
        self._parent.kill()
        self._parent.wait(30)
        for pipe in (self._parent.stdin, self._parent.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline()


def gone(pid: int, seconds: float) -> bool:
    """Wait until a process has ended; returns whether it has."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        waiting = select.poll()
        waiting.register(watched, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(watched)


@dataclasses.dataclass
class Killable:
    """One participant."""

    settings: Settings
    nursery: Nursery
    database: Database
    pid: int = 0
    worker: int = 0

    def start(self) -> None:
        """Start serving and wait until it is ready."""
        self.pid = self.nursery.start(self.settings.folder, "serve")
        until(lambda: self._ready() or self._log())

    def start_worker(self) -> None:
        """Start a worker; what it is for comes later, or never."""
        self.worker = self.nursery.start(self.settings.folder, "worker")

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            read_json(self.settings.server.public_url + "/health/ready")
            return True
        return False

    def _log(self) -> bool:
        assert not gone(self.pid, 0), (self.settings.folder / "serve.log").read_text()[-3000:]
        return False

    def order(self, **what: Any) -> None:
        """Say where to die."""
        (self.settings.folder / COMMITS).unlink(missing_ok=True)
        fresh = self.settings.folder / "crash.new"
        fresh.write_text(json.dumps(what))
        fresh.replace(self.settings.folder / ORDER)

    def forget_order(self) -> None:
        """Take an order back."""
        (self.settings.folder / ORDER).unlink(missing_ok=True)

    def commits(self) -> list[str]:
        """Return the names of the commits since the last order."""
        file = self.settings.folder / COMMITS
        return file.read_text().split() if file.exists() else []

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request as the operator."""
        token = self.settings.management.token_file.read_text().strip()
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.server.port, timeout=30)
        with contextlib.closing(connection):
            headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status < 300, said
        return json.loads(said)

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Read the database."""
        with self.database.reading() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), values)]

    def stop(self) -> None:
        """Kill what runs."""
        for pid in (self.pid, self.worker):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                assert gone(pid, 30)
        self.database.close()


@contextlib.contextmanager
def two_killable(folder: Path, create: Callable[[], str] | None, **options: Any) -> Iterator[dict[str, Killable]]:
    """Run a consumer and a provider that know each other; ``create`` makes their databases, if not SQLite files."""
    nursery = Nursery()
    found: dict[str, Killable] = {}
    try:
        for name in ("consumer", "provider"):
            place = {"database_url": create()} if create else {}
            settings = enrol(folder / name, folder / "space", name=name, port=free_port(), **place, **options)
            found[name] = Killable(settings, nursery, Database(settings.storage.database_url, pool_size=2))
            found[name].start()
        for one, other in (("consumer", "provider"), ("provider", "consumer")):
            found[one].call("POST", "/management/peers", {"address": found[other].settings.server.public_url})
        found["provider"].call("POST", "/management/datasets", DATASET)
        yield found
    finally:
        for one in found.values():
            one.stop()
        nursery.close()


def until(done: Callable[[], bool], seconds: float = 60.0, explain: Callable[[], object] = lambda: "") -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)
