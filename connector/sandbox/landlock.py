"""The file rung: which paths a step may read, and the one folder it may write (Landlock, ABI 1 to 7)."""

import os
import stat
import sys
import sysconfig
from pathlib import Path

from connector.sandbox import kernel

_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
_EXECUTE, _REMOVE_FILE, _MAKE_REG = 1 << 0, 1 << 5, 1 << 8
# How many file-access bits each ABI knows, from landlock.h.
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_ABI_NET, _ABI_SCOPED = 4, 6
_TCP_BIND_CONNECT, _SCOPE_ALL = 0b11, 0b11

_SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/sys/devices/system/cpu",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/dev/urandom",
    "/dev/zero",
)


def library_paths() -> tuple[Path, ...]:
    """Return what any step may read: the interpreter's libraries and the packages loaded before the fork.

    Only the folder of a loaded package counts, never the folder that it lies in: a checkout may hold data beside code.
    """
    libraries = [Path(path) for path in _SYSTEM]
    libraries += [Path(path) for path in {sysconfig.get_path(key) for key in ("stdlib", "platstdlib")}]
    libraries += [Path(path) for path in {sysconfig.get_path(key) for key in ("purelib", "platlib")}]
    packages: set[Path] = set()
    for name in {module.partition(".")[0] for module in sys.modules}:
        for folder in getattr(sys.modules.get(name), "__path__", ()):
            if not any(Path(folder).is_relative_to(library) for library in libraries):
                packages.add(Path(folder))
    return tuple(path for path in (*libraries, *sorted(packages)) if path.exists())


def confine(*, readable: tuple[Path, ...], writable: Path) -> None:
    """Let this process read below ``readable`` and write below ``writable``, and nothing else, for good.

    Raises:
        OSError: the kernel has no Landlock.
    """
    version = kernel.landlock_version()
    handled = (1 << _FS_BITS.get(min(version, max(_FS_BITS)), 0)) - 1
    reading = (_READ_FILE | _READ_DIR) & handled
    writing = (_READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE) & handled
    paths = [_rule(path, reading) for path in readable]
    paths += [_rule(writable, writing), _rule(Path("/dev/null"), (_READ_FILE | _WRITE_FILE) & handled)]
    try:
        kernel.landlock_restrict(
            fs=handled,
            net=_TCP_BIND_CONNECT if version >= _ABI_NET else 0,
            scoped=_SCOPE_ALL if version >= _ABI_SCOPED else 0,
            size=24 if version >= _ABI_SCOPED else 16 if version >= _ABI_NET else 8,
            paths=paths,
        )
    finally:
        for descriptor, _ in paths:
            os.close(descriptor)


def _rule(path: Path, allowed: int) -> tuple[int, int]:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    # A rule on a file may not carry rights that only folders have.
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        allowed &= _READ_FILE | _WRITE_FILE | _EXECUTE | _TRUNCATE
    return descriptor, allowed
