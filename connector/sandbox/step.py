"""What happens in the forked process: climb the ladder, run the module's step, say in two words how it ended."""

import errno
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from connector.sandbox import kernel
from connector.sandbox.ladder import Ladder, Limits, climb

READY, LISTENER, FAILED = b"R", b"L", b"F"


def run_in_child(
    run: Callable[[Path, Path], object],
    *,
    step_dir: Path,
    out_dir: Path,
    limits: Limits,
    ladder: Ladder,
    libraries: tuple[Path, ...],
    report: socket.socket,
) -> None:
    """Run one step in this freshly forked process and leave it; never returns."""
    code = 1
    try:
        _cut_loose(report)
        listener = climb(ladder, limits, readable=(step_dir, *libraries), writable=out_dir)
        if listener is None:
            report.send(READY)
        else:
            socket.send_fds(report, [LISTENER], [listener])
            os.close(listener)
        os.chdir(out_dir)
        tempfile.tempdir = str(out_dir)
        run(step_dir, out_dir)
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever a step raises ends the process, with its kind only
        report.send(FAILED + " ".join(_kind(error)).encode())
    finally:
        # Not sys.exit: nothing of the server's (sockets, exit handlers) may run here.
        os._exit(code)


def _cut_loose(report: socket.socket) -> None:
    os.setsid()
    kernel.die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    kept = report.fileno()
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.closerange(3, kept)
    os.closerange(kept + 1, min(highest, 1 << 20))


def _kind(error: BaseException) -> list[str]:
    """Return the failure's kind and, for a crash, the error's name and code; a message may hold data and stays here."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return ["memory"]
    if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV}:
        return ["violation"]
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return ["output"]
    return ["crash", type(error).__name__, str(getattr(error, "code", ""))]
