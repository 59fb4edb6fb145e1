"""``orchard serve`` and ``orchard worker`` that stop where they are told, started quickly.

While ``DIR/crash.json`` holds ``{"nth": n, "when": "before" | "after"}``, the n-th commit of a negotiation, a transfer or
the outbox since then ends in SIGKILL, just before or just after it; the file is removed first, so that it happens once.
With ``{"every": true}`` the process stops itself (SIGSTOP) before each such commit, until somebody lets it go on.

``python -m tests.support.crashing`` imports everything once and then forks a process per line of standard input,
``{"folder": DIR, "run": "serve" | "worker"}``, answering with its process id: importing takes two seconds, forking none.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

import connector.rooms
import connector.wiring
import connector.wiring_worker
import connector.worker
from connector.cli.serve import serve, worker
from connector.storage.database import Database
from contracts.messages import DataAddress

ORDER = "crash.json"
COMMITS = "commits.log"
_COUNTED = ("negotiation.", "transfer.", "outbox.")
_SWEEPS = frozenset({"outbox.lease", "outbox.release"})
_PR_SET_PDEATHSIG = 1


class Orders:
    """Carries out what ``crash.json`` says."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / ORDER
        self._log = folder / COMMITS
        self._given = ""
        self._count = 0
        self._lock = threading.Lock()

    def before(self, name: str) -> int | None:
        """Note a commit that comes; returns its number, if it counts."""
        if not name.startswith(_COUNTED) or name in _SWEEPS:
            return None
        with self._lock:
            try:
                given = self._file.read_text()
            except OSError:
                return None
            if given != self._given:
                self._given, self._count = given, 0
            self._count += 1
            with self._log.open("a") as log:
                log.write(name + "\n")
            order = json.loads(given)
        if order.get("every"):
            os.kill(os.getpid(), signal.SIGSTOP)
            return None
        self._maybe_die(order, self._count, "before")
        return self._count

    def after(self, number: int | None) -> None:
        """Note that a commit is done."""
        if number is not None and self._file.exists():
            self._maybe_die(json.loads(self._given), number, "after")

    def _maybe_die(self, order: dict[str, Any], number: int, when: str) -> None:
        if (number, when) == (order["nth"], order["when"]):
            self._file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def obey(folder: Path) -> None:
    """Let every commit of this process ask for orders; let providers start transfers without a plan."""
    orders, open_now = Orders(folder), threading.local()
    once, commit = Database._once, Database._commit

    def committing(self: Database, connection: Connection) -> None:
        number = orders.before(open_now.name)
        commit(self, connection)
        orders.after(number)

    def named(self: Database, name: str, work: Callable[[Any], Any], *, writing: bool) -> Any:
        open_now.name = name
        return once(self, name, work, writing=writing)

    Database._once, Database._commit = named, committing  # type: ignore[method-assign]

    def start_address(_store: object, _tokens: object, url: str) -> Callable[..., DataAddress]:
        return lambda _agreement, _transfer: DataAddress(endpoint_type="urn:test", endpoint=f"{url}/learning")

    connector.rooms.start_address = start_address


def _become(folder: Path, run: str) -> None:
    """Run what was asked for; never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(folder / f"{run}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in enumerate((nothing, log, log)):
        os.dup2(target, number)
    if run == "serve":
        obey(folder)
        serve(folder)
    else:
        worker(folder, queues="control", concurrency=2, name="worker-1")
    os._exit(0)


def main() -> None:
    """Fork what is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if threading.active_count() != 1:
            raise AssertionError("a process with threads must not be forked")
        pid = os.fork()
        if pid == 0:
            _become(Path(asked["folder"]), asked["run"])
        print(pid, flush=True)


if __name__ == "__main__":
    main()
