"""Databases for tests: an embedded SQLite file and a real PostgreSQL server, one server per test session.

The server is Debian's PostgreSQL, started in a temporary directory on a unix socket only (no port to collide on), as
the user ``postgres`` when the tests run as root, because PostgreSQL refuses root.
"""

import contextlib
import ctypes
import dataclasses
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from connector.storage.database import Database
from connector.storage.migrate import upgrade

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60.0
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}
_MISSING = (
    "PostgreSQL is not installed, and the port suites run on it. "
    "Install it with: apt-get install -y --no-install-recommends postgresql"
)


@contextlib.contextmanager
def running_postgresql() -> Iterator[Callable[[], str]]:
    """Give a function that makes a fresh, empty database on a server of its own and returns its SQLAlchemy URL."""
    with postgresql(_SETTINGS) as server:
        yield server.create


@dataclasses.dataclass(frozen=True, kw_only=True)
class Server:
    """A running PostgreSQL: its process, and how to make a fresh, empty database (returns its SQLAlchemy URL)."""

    process: subprocess.Popen[bytes]
    create: Callable[[], str]


@contextlib.contextmanager
def postgresql(settings: Mapping[str, str]) -> Iterator[Server]:
    """Run a PostgreSQL of one's own with these settings; it keeps what it was told only until the end."""
    binaries = _binaries()
    if binaries is None:
        pytest.fail(_MISSING, pytrace=False)
    # A unix socket's path is limited to 107 bytes: pytest's own temporary folders may be too deep.
    folder = Path(tempfile.mkdtemp(prefix="orchard-pg-"))
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user, user)
    try:
        with _running(binaries, folder, user, settings) as (process, server_user):
            names = (f"orchard_{number}" for number in itertools.count(1))
            yield Server(process=process, create=lambda: _create(folder, server_user, next(names)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[], str]]:
    """Give a function that makes a fresh, empty database on this session's server and returns its SQLAlchemy URL."""
    with running_postgresql() as create:
        yield create


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database; the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'orchard.sqlite'}"
    create: Callable[[], str] = request.getfixturevalue("postgresql_server")
    return create()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Give a migrated database, on each kind in turn; closed at the end."""
    upgrade(database_url)
    opened = Database(database_url)
    yield opened
    opened.close()


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextlib.contextmanager
def _running(
    binaries: Path, folder: Path, user: str | None, settings: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    data = folder / "data"
    server_user = user or pwd.getpwuid(os.geteuid()).pw_name
    made = subprocess.run(
        [binaries / "initdb", "-D", data, "-A", "trust", "-U", server_user, "-E", "UTF8", "--locale=C", "--no-sync"],
        user=user,
        group=user,
        extra_groups=[] if user else None,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.fail(f"initdb failed: {made.stderr.strip()}", pytrace=False)
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", folder, *options],
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd=folder,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - only a system call, and no server may outlive a killed test run
        )
    try:
        _wait(server, folder, server_user)
        yield server, server_user
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=30)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _wait(server: subprocess.Popen[bytes], folder: Path, user: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(host=str(folder), user=user, dbname="postgres").close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}", pytrace=False)
            time.sleep(0.05)
        else:
            return


def _create(folder: Path, user: str, name: str) -> str:
    with psycopg.connect(host=str(folder), user=user, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"postgresql+psycopg://{user}@/{name}?host={folder}"
