"""The ladder: the rungs that hold a step, probed at start and named when one is missing.

namespaces (own user, network and IPC namespace), landlock (files), seccomp (system calls), limits (memory, CPU time,
file size, open files) and no-new-privileges. Each works without the others; a participant says which ones it has.
"""

import dataclasses
import os
import resource
from collections.abc import Callable
from pathlib import Path

from connector.sandbox import filters, kernel, landlock

RUNGS = ("namespaces", "landlock", "seccomp", "limits", "no-new-privileges")
_OPEN_FILES = 64
_MEBIBYTE = 1024 * 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
    """Which rungs this machine has."""

    held: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    """(rung, why it is missing) pairs."""
    listener: bool
    """Forbidden calls are reported by name, not only stopped."""
    own_namespaces: bool
    """A step can make its own namespaces; else ``namespaces`` is held by what the server runs in."""

    @property
    def complete(self) -> bool:
        """All rungs are there."""
        return not self.missing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one step may use."""

    seconds: float
    """Wall-clock and CPU time."""
    memory_mb: int
    """Address space over what is loaded before the step, in MiB."""
    output_bytes: int
    """The largest file it may write."""


def probe() -> Ladder:
    """Try each rung in a process of its own and return what works here."""
    missing: dict[str, str] = {}
    own_namespaces = _works(lambda: kernel.unshare(_NAMESPACES)) is None
    if not own_namespaces and not _alone_on_the_network():
        missing["namespaces"] = "this machine forbids user namespaces, and no bubblewrap holds the server"
    reason = _works(lambda: landlock.confine(readable=(), writable=Path("/dev")))
    if reason is not None:
        missing["landlock"] = f"the kernel offers no Landlock ({reason})"
    reason = _works(lambda: _filter(listener=False))
    if reason is not None:
        missing["seccomp"] = f"the kernel takes no filter ({reason})"
    return Ladder(
        held=tuple(rung for rung in RUNGS if rung not in missing),
        missing=tuple(missing.items()),
        listener=_works(lambda: _filter(listener=True)) is None,
        own_namespaces=own_namespaces,
    )


def climb(ladder: Ladder, limits: Limits, *, readable: tuple[Path, ...], writable: Path) -> int | None:
    """Confine this process with every rung the ladder holds; there is no way back.

    Returns:
        The descriptor of the seccomp listener, for the supervisor; None without one.
    """
    if ladder.own_namespaces:
        kernel.unshare(_NAMESPACES)
    _limit(limits)
    kernel.no_new_privileges()
    kernel.drop_capabilities()
    if "landlock" in ladder.held:
        landlock.confine(readable=readable, writable=writable)
    if "seccomp" in ladder.held:
        return filters.install(listener=ladder.listener)
    return None


_NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC


def _limit(limits: Limits) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    space = pages * resource.getpagesize() + limits.memory_mb * _MEBIBYTE
    cpu = int(limits.seconds) + 1
    for kind, value in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, limits.output_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _filter(*, listener: bool) -> None:
    kernel.no_new_privileges()
    if not filters.supported():
        raise OSError(f"call numbers of {kernel.machine()} are not known")
    filters.install(listener=listener)


def _alone_on_the_network() -> bool:
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines} <= {"lo"}


def _works(attempt: Callable[[], object]) -> str | None:
    """Run ``attempt`` in a child; return None, or the name of the error that it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt()
            code = 0
        except OSError as error:
            os.write(writing, (error.strerror or str(error)).encode()[:100])
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        reason = report.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return None if status == 0 else reason or "it failed"
