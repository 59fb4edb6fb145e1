"""Processes that the demo starts: each with its own log file, all ended together, none outliving the demo."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 2.0
_STOPPING = (signal.SIGINT, signal.SIGTERM)
# Loaded before any fork: nothing may be imported between fork and exec.
_LIBC = ctypes.CDLL(None, use_errno=True)


def start(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, writing to ``log``; it ends when this process does."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, _unforked():
        return subprocess.Popen(  # noqa: S603 - our own commands
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - only system calls
        )


def orchard(*arguments: str) -> list[str]:
    """Return the command line of an ``orchard`` command under this interpreter."""
    return [sys.executable, "-m", "connector", *arguments]


def stop(processes: Sequence[subprocess.Popen[bytes]], grace_seconds: float = _GRACE_SECONDS) -> None:
    """Ask every process to end, wait a little, then kill what is left of each process group.

    Ctrl-C and SIGTERM are ignored meanwhile: an impatient second one must not cut this short.
    """
    with _undisturbed():
        _stop(processes, grace_seconds)


def _stop(processes: Sequence[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    for process in processes:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue
    for process in processes:
        _signal_group(process, signal.SIGKILL)
        process.wait()


@contextmanager
def _undisturbed() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The group has the leader's id even when the leader is gone, as long as one member lives.
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@contextmanager
def _unforked() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back: Python forgets an exception that is raised in what it runs around a fork."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _end_with_parent() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
