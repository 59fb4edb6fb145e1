"""The ladder where a rung is missing, and the fork server's own life."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from connector.sandbox import ladder
from connector.sandbox.landlock import library_paths
from connector.sandbox.sandbox import Sandbox

FULL = ladder.probe()
LIMITS = ladder.Limits(seconds=10, memory_mb=256, output_bytes=1 << 20)


def confined(held: ladder.Ladder, folder: Path, act: Callable[[], object]) -> int:
    """Return the exit status of an act in a process that climbed the ladder; negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ladder.climb(held, LIMITS, readable=library_paths(), writable=folder)
            act()
            code = 0
        except PermissionError:
            code = 13
        except OSError:
            code = 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def missing(*rungs: str) -> ladder.Ladder:
    """Return this machine's ladder without a listener and without some rungs."""
    held = tuple(rung for rung in FULL.held if rung not in rungs)
    return dataclasses.replace(FULL, held=held, listener=False, own_namespaces="namespaces" not in rungs)


def test_this_machine_has_every_rung() -> None:
    """The machine that tests run on can hold a step in full, and says so."""
    assert FULL.held == ladder.RUNGS
    assert FULL.complete
    assert FULL.listener


def test_without_a_listener_a_forbidden_call_kills_at_once(tmp_path: Path) -> None:
    """Where the supervisor cannot be asked the filter alone stops the step."""
    assert confined(missing(), tmp_path, socket.socket) == -signal.SIGSYS


def test_without_landlock_the_other_rungs_hold(tmp_path: Path) -> None:
    """Sockets stay closed; the file rung is not claimed."""
    held = missing("landlock")
    assert confined(held, tmp_path, socket.socket) == -signal.SIGSYS
    assert "landlock" not in held.held


def test_without_seccomp_files_and_network_are_still_closed(tmp_path: Path) -> None:
    """Landlock refuses foreign files, and an empty network namespace leads nowhere."""
    held = missing("seccomp")
    assert confined(held, tmp_path, lambda: Path("/etc/passwd").read_text(encoding="utf-8")) == 13
    assert confined(held, tmp_path, lambda: socket.create_connection(("192.0.2.1", 80), timeout=1)) in {2, 13}


def test_limits_cannot_be_raised_again(tmp_path: Path) -> None:
    """Setting a limit is a forbidden call; reading one is not."""
    raise_limit = "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))"
    assert confined(missing(), tmp_path, lambda: exec(raise_limit)) == -signal.SIGSYS  # noqa: S102 - what a step may try
    assert confined(missing(), tmp_path, lambda: exec("import resource as r; r.getrlimit(r.RLIMIT_AS)")) == 0  # noqa: S102 - as above


def test_a_server_ends_with_its_owner(tmp_path: Path) -> None:
    """After kill -9 of the worker nothing of its sandbox is left."""
    code = (
        "import sys, time; from pathlib import Path; from connector.sandbox.sandbox import Sandbox;"
        "box = Sandbox(socket_path=Path(sys.argv[1]), preload='tests.support.hostile'); box.start();"
        "print(box._server.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        owner.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{server}").exists() and _state(server) != "Z":
        assert time.monotonic() < end, "the server outlived its owner"
        time.sleep(0.02)


def test_a_shared_server_serves_several_and_ends_when_idle(tmp_path: Path) -> None:
    """Two sandboxes on one socket use one server; without work it goes, and leaves no socket."""
    path = tmp_path / "s.sock"
    first, second = (
        Sandbox(socket_path=path, preload="tests.support.hostile", shared=True, idle_seconds=0.3) for _ in range(2)
    )
    first.start()
    second.start()
    assert second._server is None
    assert first._server is not None
    first._server.wait(timeout=10)
    assert not path.exists()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
