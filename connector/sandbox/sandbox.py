"""The client side: run one step in the sandbox, starting the fork server when there is none."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connector.sandbox.results import SandboxError, StepResult

_START_SECONDS = 120.0
_REPLY_BYTES = 1 << 16
_LONGEST_SOCKET_PATH = 107
_OUTPUT = "out.safetensors"
_GRACE_SECONDS = 30.0
_BUBBLEWRAP = ("--dev-bind", "/", "/", "--unshare-net", "--unshare-ipc", "--die-with-parent")


class Sandbox:
    """Runs steps in forked, confined processes (see ``ladder.py``). Safe to use from several threads.

    Attributes:
        socket_path: where the fork server listens.
    """

    def __init__(
        self,
        *,
        socket_path: Path,
        preload: str,
        shared: bool = False,
        require: frozenset[str] = frozenset(),
        output_bytes: int = 1 << 30,
        idle_seconds: float = 600.0,
    ) -> None:
        """Prepare a sandbox; nothing is started before the first step.

        Args:
            socket_path: at most 107 bytes, in a folder that only this user can enter.
            preload: the module with ``preload()`` and ``run(step_dir, out_dir)``, loaded by the server alone.
            shared: the server may serve other processes, too, and ends after ``idle_seconds`` without work.
            require: rungs without which no step runs.
            output_bytes: the largest output file.
            idle_seconds: how long a shared server waits for work.
        """
        self.socket_path = socket_path
        self._log = socket_path.with_suffix(".log")
        self._preload = preload
        self._shared = shared
        self._require = require
        self._output_bytes = output_bytes
        self._idle_seconds = idle_seconds
        self._server: subprocess.Popen[bytes] | None = None
        self._owner: int | None = None
        self._lock = threading.Lock()
        self._checked = False

    def run(self, step_dir: Path, out_dir: Path, *, seconds: float, memory_mb: int) -> StepResult:
        """Run the step described in ``step_dir``; it may write ``out.safetensors`` into the empty ``out_dir``.

        Args:
            step_dir: what the step reads; nothing else of this machine's data is open to it.
            out_dir: an existing, empty folder.
            seconds: wall-clock and CPU limit.
            memory_mb: memory over the loaded libraries, in MiB.

        Raises:
            SandboxError: the step failed, or a required rung is missing.
        """
        if any(out_dir.iterdir()):
            raise SandboxError("unavailable", "the output folder is not empty")
        self._check_rungs()
        request = {
            "op": "run",
            "step_dir": str(step_dir.resolve()),
            "out_dir": str(out_dir.resolve()),
            "seconds": seconds,
            "memory_mb": memory_mb,
            "output_bytes": self._output_bytes,
        }
        reply = self._ask(request, seconds + _GRACE_SECONDS)
        if "kind" in reply:
            raise SandboxError(reply["kind"], reply["detail"])
        return StepResult(
            output=self._only_output(out_dir),
            cpu_seconds=reply["cpu_seconds"],
            wall_seconds=reply["wall_seconds"],
            max_rss_bytes=reply["max_rss_bytes"],
            rungs=tuple(reply["rungs"]),
        )

    def ladder(self) -> dict[str, Any]:
        """Return ``{"held": [...], "missing": [[rung, why], ...], ...}`` as the server found it at its start."""
        return self._ask({"op": "ladder"}, _GRACE_SECONDS)

    def start(self) -> None:
        """Start the fork server now if none answers (a worker warms up before its first step).

        Raises:
            SandboxError: it does not come up.
        """
        with self._lock, self._one_starter():
            if not self._answers():
                self._launch()

    def stop(self) -> None:
        """End the server if this object started it."""
        with self._lock:
            if self._server is not None:
                self._end_server()
                self.socket_path.unlink(missing_ok=True)

    def _ask(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        for _ in range(2):
            try:
                return self._exchange(request, patience)
            except (ConnectionError, FileNotFoundError):
                # No server, or it went away under the step: a step has no effect but its output, so it runs again.
                _empty(request.get("out_dir"))
                self.start()
            except TimeoutError:
                raise SandboxError("unavailable", "the fork server does not answer") from None
        try:
            return self._exchange(request, patience)
        except OSError as error:
            raise SandboxError("unavailable", f"the fork server went away ({type(error).__name__})") from None

    def _exchange(self, request: dict[str, Any], patience: float) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(patience)
            connection.connect(str(self.socket_path))
            connection.sendall(json.dumps(request).encode())
            reply = connection.makefile("rb").readline(_REPLY_BYTES)
        if not reply:
            raise ConnectionResetError
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _check_rungs(self) -> None:
        if self._require and not self._checked:
            ladder = self.ladder()
            lacking = sorted(self._require - set(ladder["held"]))
            if lacking:
                reasons = dict(ladder["missing"])
                raise SandboxError("unavailable", f"the rung {lacking[0]} is missing: {reasons.get(lacking[0], '?')}")
            self._checked = True

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(str(self.socket_path))
            except OSError:
                return False
        return True

    @contextlib.contextmanager
    def _one_starter(self) -> Iterator[None]:
        """Hold the lock that keeps two processes from starting a server on one socket."""
        if len(os.fsencode(self.socket_path)) > _LONGEST_SOCKET_PATH:
            raise SandboxError("unavailable", f"the socket's path is over {_LONGEST_SOCKET_PATH} bytes: shorten it")
        self.socket_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.socket_path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _launch(self) -> None:
        command = [sys.executable, "-m", "connector.sandbox.forkserver", "--socket", str(self.socket_path)]
        command += ["--preload", self._preload]
        self._end_server()
        if self._shared:
            command += ["--idle", str(self._idle_seconds)]
        # A shared server goes with whoever started it, too: nobody else would end it, and its next client starts another.
        theirs, self._owner = os.pipe()
        command += ["--owner-fd", str(theirs)]
        # Nothing of this process's environment goes along: it may hold secrets.
        environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*_outer(), *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(theirs,),
            )
        os.close(theirs)
        self._await_start(self._server)

    def _await_start(self, server: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._answers():
                return
            if server.poll() is not None:
                raise SandboxError("unavailable", f"the fork server did not start: {_last_line(self._log)}")
            time.sleep(0.01)
        server.kill()
        raise SandboxError("unavailable", f"the fork server did not start within {_START_SECONDS:.0f} s")

    def _end_server(self) -> None:
        """End and reap the server that this object started, whether it still runs or not."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
            self._server = None
        self._close_owner()

    def _close_owner(self) -> None:
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    def _only_output(self, out_dir: Path) -> Path:
        entries = list(os.scandir(out_dir))
        if [entry.name for entry in entries] != [_OUTPUT] or not entries[0].is_file(follow_symlinks=False):
            raise SandboxError("output", f"the step must leave exactly one file, {_OUTPUT}")
        if entries[0].stat(follow_symlinks=False).st_size > self._output_bytes:
            raise SandboxError("output", f"{_OUTPUT} is over {self._output_bytes} bytes")
        return out_dir / _OUTPUT


def _outer() -> tuple[str, ...]:
    """Return the bubblewrap command that takes the server off the network, where its steps cannot leave it alone."""
    program = shutil.which("bwrap")
    if program is None or _may_unshare():
        return ()
    wrapped = (program, *_BUBBLEWRAP)
    trial = subprocess.run([*wrapped, sys.executable, "-c", ""], check=False, capture_output=True)  # noqa: S603 - a trial of bwrap
    return wrapped if trial.returncode == 0 else ()


def _may_unshare() -> bool:
    trial = "from connector.sandbox import kernel as k; k.unshare(k.CLONE_NEWUSER | k.CLONE_NEWNET)"
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", trial]
    return subprocess.run(command, check=False, capture_output=True, env=environment).returncode == 0  # noqa: S603 - our own code


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def _empty(folder: str | None) -> None:
    for entry in os.scandir(folder) if folder else ():
        Path(entry).unlink()
