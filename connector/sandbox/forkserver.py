"""The fork server: a process that loads the training libraries once and forks one confined child for each step.

It holds no data and no secret, so that several participants may share one. One thread, one loop: a fork from a process
with other threads may copy a lock that is held. Requests and replies are one JSON line each over a Unix socket.

    python -m connector.sandbox.forkserver --socket PATH --preload MODULE [--idle SECONDS]

``MODULE.preload()`` is called once; each step calls ``MODULE.run(step_dir, out_dir)`` in a child.
"""

import argparse
import contextlib
import dataclasses
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from connector.sandbox import filters, pages, step
from connector.sandbox.ladder import Ladder, Limits, probe
from connector.sandbox.landlock import library_paths

_MESSAGE_BYTES = 1 << 16
_TOLD = {
    "violation": "file access outside the step",
    "memory": "allocation refused",
    "output": "a file over the size limit",
}
_KILLED_BY_SYSTEM = "killed by the system, which was out of memory"


@dataclasses.dataclass(kw_only=True)
class _Running:
    """One step under way."""

    pid: int
    pidfd: int
    connection: socket.socket
    report: socket.socket
    deadline: float
    started: float
    listener: int | None = None
    failure: tuple[str, str] | None = None


class ForkServer:
    """The server's state: the loaded module, the ladder, and the steps under way."""

    def __init__(self, *, listening: socket.socket, module: ModuleType, ladder: Ladder, idle_seconds: float) -> None:
        """Take over a listening socket and a module whose ``preload`` has run."""
        self._listening = listening
        self._run = module.run
        self._ladder = ladder
        self._idle_seconds = idle_seconds
        self._libraries = library_paths()
        self._names = _error_names()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._steps: dict[int, _Running] = {}
        self._open = True

    def watch_owner(self, descriptor: int) -> None:
        """End when the other end of this pipe is closed: whoever started the server is gone."""
        self._selector.register(descriptor, selectors.EVENT_READ, self._owner_gone)

    def serve(self) -> None:
        """Serve until the owner is gone, or nothing was asked for a while."""
        while self._open:
            events = self._selector.select(self._wait())
            if not events and not self._steps and self._idle_seconds:
                return
            for key, _ in events:
                if self._is_current(key):
                    key.data(key.fileobj)
            now = time.monotonic()
            for running in list(self._steps.values()):
                if now >= running.deadline and running.failure is None:
                    self._fail(running, "timeout", "the wall-clock limit")

    def close(self) -> None:
        """Kill the steps under way."""
        for running in self._steps.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)

    def _wait(self) -> float | None:
        deadlines = [running.deadline for running in self._steps.values() if running.failure is None]
        if deadlines:
            return max(0.0, min(deadlines) - time.monotonic())
        return None if self._steps else self._idle_seconds or None

    def _is_current(self, key: selectors.SelectorKey) -> bool:
        """An earlier event of the same batch may have closed what a later one is about, or reused its number."""
        try:
            return self._selector.get_key(key.fileobj) is key
        except (KeyError, ValueError):
            return False

    def _owner_gone(self, _descriptor: int) -> None:
        self._open = False

    def _accept(self, listening: socket.socket) -> None:
        connection, _ = listening.accept()
        self._selector.register(connection, selectors.EVENT_READ, self._request)

    def _request(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        try:
            request = json.loads(connection.recv(_MESSAGE_BYTES))
            if request["op"] == "ladder":
                _reply(connection, dataclasses.asdict(self._ladder))
                return
            self._start(connection, request)
        except (ValueError, KeyError, TypeError, OSError) as error:
            _reply(connection, {"kind": "unavailable", "detail": f"the request failed: {type(error).__name__}"})

    def _start(self, connection: socket.socket, request: dict[str, Any]) -> None:
        limits = Limits(
            seconds=float(request["seconds"]),
            memory_mb=int(request["memory_mb"]),
            output_bytes=int(request["output_bytes"]),
        )
        step_dir, out_dir = Path(request["step_dir"]), Path(request["out_dir"])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            step.run_in_child(
                self._run,
                step_dir=step_dir,
                out_dir=out_dir,
                limits=limits,
                ladder=self._ladder,
                libraries=self._libraries,
                report=theirs,
            )
        theirs.close()
        running = _Running(
            pid=pid,
            pidfd=os.pidfd_open(pid),
            connection=connection,
            report=ours,
            started=started,
            deadline=started + limits.seconds,
        )
        self._steps[pid] = running
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._reported(running))
        self._selector.register(running.pidfd, selectors.EVENT_READ, lambda _: self._ended(running))
        # Readable before the reply means that the client has gone: nobody waits for this step any more.
        self._selector.register(connection, selectors.EVENT_READ, lambda _: self._fail(running, "crash", "client gone"))

    def _reported(self, running: _Running) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(running.report, 512, 1)
        except ConnectionError:
            message, descriptors = b"", []
        if message[:1] == step.LISTENER and descriptors and running.listener is None:
            running.listener = descriptors[0]
            self._selector.register(running.listener, selectors.EVENT_READ, lambda _: self._stopped(running))
        elif message[:1] == step.FAILED and running.failure is None:
            running.failure = self._said(message[1:].decode(errors="replace").split())
        elif not message:
            self._selector.unregister(running.report)

    def _said(self, words: list[str]) -> tuple[str, str]:
        """Return the failure a step tells of; of its words only names that the server knows go on, never free text."""
        if words and words[0] in _TOLD:
            return words[0], _TOLD[words[0]]
        return "crash", " ".join(word for word in words[1:3] if word in self._names) or "an error of its own"

    def _stopped(self, running: _Running) -> None:
        assert running.listener is not None  # noqa: S101 - registered only with a listener
        try:
            reason = filters.receive(running.listener)
        except OSError:
            # The step ended between the call and the reading of it.
            self._selector.unregister(running.listener)
            return
        self._fail(running, "violation", reason)

    def _fail(self, running: _Running, kind: str, detail: str) -> None:
        running.failure = (kind, detail)
        with contextlib.suppress(KeyError):
            self._selector.unregister(running.connection)
        signal.pidfd_send_signal(running.pidfd, signal.SIGKILL)

    def _ended(self, running: _Running) -> None:
        _, status, usage = os.wait4(running.pid, 0)
        if running.report in self._selector.get_map():
            self._drain(running)
        reply: dict[str, Any] = {
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "wall_seconds": time.monotonic() - running.started,
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "rungs": self._ladder.held,
        }
        failure = running.failure or _failure(status)
        if failure is not None:
            reply |= {"kind": failure[0], "detail": failure[1]}
        for thing in (running.report, running.connection, running.pidfd, running.listener):
            with contextlib.suppress(KeyError, ValueError):
                if thing is not None:
                    self._selector.unregister(thing)
        _reply(running.connection, reply)
        running.report.close()
        os.close(running.pidfd)
        if running.listener is not None:
            os.close(running.listener)
        del self._steps[running.pid]

    def _drain(self, running: _Running) -> None:
        """Read what the step said just before it ended."""
        running.report.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while running.report in self._selector.get_map():
                self._reported(running)


def _error_names() -> frozenset[str]:
    """Return the names and codes of all exceptions loaded now, before any step."""
    names: set[str] = set()
    waiting: list[type[BaseException]] = [BaseException]
    while waiting:
        kind = waiting.pop()
        waiting += type.__subclasses__(kind)
        names |= {kind.__name__, str(getattr(kind, "code", ""))}
    return frozenset(names - {""})


def _failure(status: int) -> tuple[str, str] | None:
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    if code > 0:
        return "crash", "the step ended without a word"
    number = signal.Signals(-code)
    known = {
        signal.SIGXCPU: ("timeout", "the CPU limit"),
        signal.SIGSYS: ("violation", "a forbidden system call"),
        signal.SIGXFSZ: ("output", "a file over the size limit"),
        signal.SIGKILL: ("memory", _KILLED_BY_SYSTEM),
    }
    return known.get(number, ("crash", number.name))


def _reply(connection: socket.socket, reply: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(reply).encode() + b"\n")
    connection.close()


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    listening.listen(64)
    return listening


def main(arguments: list[str]) -> int:
    """Load the module, probe the ladder, then serve."""
    parser = argparse.ArgumentParser(prog="forkserver")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--preload", required=True)
    parser.add_argument("--idle", type=float, default=0.0)
    parser.add_argument("--owner-fd", type=int)
    options = parser.parse_args(arguments)
    os.umask(0o077)
    # Ctrl-C in a terminal reaches the whole process group; the worker decides when its steps end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the libraries make while they load stays: a collector would go through all of it again and again.
    gc.disable()
    # Before the libraries: what they start (threads) must not be alive when the trial processes fork.
    ladder = probe()
    module = importlib.import_module(options.preload)
    module.preload()
    # Collected once and then frozen, so that a child's collector does not touch, and so copy, every page.
    gc.collect()
    gc.freeze()
    gc.enable()
    pages.gather()
    server = ForkServer(listening=_listen(options.socket), module=module, ladder=ladder, idle_seconds=options.idle)
    if options.owner_fd is not None:
        server.watch_owner(options.owner_fd)
    try:
        server.serve()
    finally:
        server.close()
        options.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
