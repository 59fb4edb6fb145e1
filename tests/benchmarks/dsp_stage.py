"""Two connectors as processes on one database kind, a client that starts negotiations, and their processor time."""

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from connector.foundation import lay_foundation
from connector.identity.files import read_text
from connector.peers.lines import Lines
from connector.settings import Settings
from connector.storage.database import Database
from tests.support.databases import Server, postgresql
from tests.support.participants import enrol
from tests.support.processes import Served, free_port, served

# As a server is run: a commit is on the disk when it is answered.
DURABLE = {"listen_addresses": "", "max_connections": "200", "shared_buffers": "128MB"}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connector:
    """One participant under load: its process, its operator's token, and the file its probe writes at the end."""

    settings: Settings
    running: Served
    token: str
    probe: Path

    @property
    def id(self) -> str:
        """The participant id."""
        return self.settings.participant.id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """A consumer, a provider and their database server (none for SQLite)."""

    consumer: Connector
    provider: Connector
    server: Server | None

    def cpu_seconds(self) -> dict[str, float]:
        """Return processor time so far, by part."""
        return {
            "consumer": self.consumer.running.cpu_seconds,
            "provider": self.provider.running.cpu_seconds,
            "database": _server_cpu(self.server) if self.server else 0.0,
        }


@contextlib.contextmanager
def stage(kind: str, fill: Callable[[Settings, Settings], None], *, probe: bool = False) -> Iterator[Stage]:
    """Run both participants on ``sqlite`` or ``postgresql``; ``fill`` writes to their databases before they start."""
    folder = Path(tempfile.mkdtemp(prefix="orchard-bench-"))
    try:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(postgresql(DURABLE)) if kind == "postgresql" else None
            made = [_enrol(folder, name, server) for name in ("consumer", "provider")]
            fill(*made)
            running = [stack.enter_context(_serving(settings, folder, probe=probe)) for settings in made]
            for one, other in (running, running[::-1]):
                call(one, "POST", "/management/peers", {"address": other.settings.server.public_url})
            yield Stage(consumer=running[0], provider=running[1], server=server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def call(connector: Connector, method: str, path: str, body: object = None) -> Any:
    """Send one request as the operator on a connection of its own and return the JSON answer."""
    with contextlib.closing(Line(connector)) as line:
        return line.call(method, path, body)


class Line:
    """A kept connection of an operator; as light as our own client, for it shares the machine with what is measured."""

    def __init__(self, connector: Connector) -> None:
        self._address = connector.settings.server.public_url
        self._headers = {"authorization": f"Bearer {connector.token}", "content-type": "application/json"}
        self._lines = Lines(ssl.create_default_context, connect_seconds=5.0)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send one request and return the JSON answer."""
        sent = None if body is None else json.dumps(body).encode()
        status, said, _ = _exchanged(self._lines, method, self._address + path, sent, self._headers)
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {said[:300]!r}")
        return json.loads(said)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()


class PeerLine:
    """A kept connection of the consumer as a participant, to the provider's DSP endpoints."""

    def __init__(self, stage_: Stage) -> None:
        foundation = lay_foundation(stage_.consumer.settings)
        self._issuer, self._audience = foundation.issuer, stage_.provider.id
        foundation.close()
        self._address = stage_.provider.settings.server.public_url
        self._lines = Lines(ssl.create_default_context, connect_seconds=5.0)

    def post(self, path: str, body: object) -> tuple[Mapping[str, str], bytes]:
        """Send a message and return the answer's headers (lower-case names) and body."""
        headers = {"authorization": self._issuer.authorization(self._audience), "content-type": "application/json"}
        sent = json.dumps(body).encode()
        status, said, known = _exchanged(self._lines, "POST", self._address + path, sent, headers)
        if status != 200:
            raise AssertionError(f"{path}: {status} {said[:300]!r}")
        return known, said

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()


def _exchanged(
    lines: Lines, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[int, bytes, Mapping[str, str]]:
    return lines.exchange(method, url, body=body, headers=headers, seconds=120.0, max_bytes=8 << 20)


class Rows:
    """Looks into a participant's database without the participant."""

    def __init__(self, url: str) -> None:
        if url.startswith("sqlite"):
            self._connection: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        else:
            self._connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self._mark = "?" if url.startswith("sqlite") else "%s"

    def one(self, statement: str, *values: object) -> Any:
        """Return the first column of the first row, or None."""
        row = self._connection.execute(statement.replace("?", self._mark), values).fetchone()
        return row[0] if row else None

    def all(self, statement: str, *values: object) -> Sequence[Any]:
        """Return every row."""
        found: Sequence[Any] = self._connection.execute(statement.replace("?", self._mark), values).fetchall()
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def database(settings: Settings) -> Database:
    """Open a participant's database."""
    return Database(settings.storage.database_url)


def _enrol(folder: Path, name: str, server: Server | None) -> Settings:
    url = server.create() if server else "sqlite:///orchard.sqlite"
    return enrol(folder / name, folder / "space", name=name, port=free_port(), database_url=url)


@contextlib.contextmanager
def _serving(settings: Settings, folder: Path, *, probe: bool) -> Iterator[Connector]:
    name = settings.participant.name
    out = folder / f"{name}.json"
    command = [sys.executable, "-m", "tests.benchmarks.dsp_probe", str(settings.folder), str(out) if probe else ""]
    with served(command, settings.server.public_url, "/health/ready", folder / f"{name}.log") as running:
        yield Connector(settings=settings, running=running, token=read_text(settings.management.token_file), probe=out)


def _server_cpu(server: Server) -> float:
    postmaster = server.process.pid
    total = sum(_ticks(postmaster, 4))
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            total += sum(_ticks(int(child), 2))
    return total / _TICKS


def _ticks(pid: int, fields: int) -> Sequence[int]:
    # utime, stime and, for the postmaster, what its ended children used.
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(part) for part in parts[11 : 11 + fields]]


def load() -> str:
    """Return what else this machine is doing, so that wall times can be judged."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {time.strftime('%Y-%m-%d %H:%M')} "


def pace() -> float:
    """Return the processor milliseconds that a fixed piece of work takes now: a shared machine's cores are not always alike."""
    started, total = time.process_time(), 0
    for number in range(1_000_000):
        total += number * number % 7
    return (time.process_time() - started) * 1000
