"""The few system calls the ladder is made of, by ctypes: no library beyond the C one is needed.

Sources: unshare(2), prctl(2), capset(2), Documentation/userspace-api/landlock.rst and seccomp_filter.rst, madvise(2).
"""

import ctypes
import os
import platform

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1
_RULE_PATH_BENEATH = 1
_CAPABILITY_VERSION_3 = 0x20080522
_MADV_COLLAPSE = 25
_NUMBERS = {"x86_64": {"seccomp": 317, "capset": 126}, "aarch64": {"seccomp": 277, "capset": 91}}

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def machine() -> str:
    """Return the processor's name as the kernel gives it, e.g. ``x86_64``."""
    return platform.machine()


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags``; OSError when that is not allowed here."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def no_new_privileges() -> None:
    """Give up gaining privileges by executing a file, for good."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def die_with_parent(signal: int) -> None:
    """Have the kernel send ``signal`` to this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def collapse_pages(start: int, size: int) -> bool:
    """Put ``size`` bytes at address ``start`` into large pages; False where the kernel does not."""
    return bool(_libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), ctypes.c_int(_MADV_COLLAPSE)) == 0)


def drop_capabilities() -> None:
    """Clear the effective, permitted and inheritable capability sets."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.syscall(_number("capset"), header, data), "capset")


def landlock_version() -> int:
    """Return the Landlock ABI of this kernel; 0 when it has none."""
    version = int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_LANDLOCK_VERSION)))
    return max(version, 0)


def landlock_restrict(*, fs: int, net: int, scoped: int, size: int, paths: list[tuple[int, int]]) -> None:
    """Enforce a ruleset on this thread.

    Args:
        fs: the handled file accesses (bits).
        net: the handled TCP accesses.
        scoped: the scopes (abstract sockets, signals).
        size: how much of ``landlock_ruleset_attr`` this kernel's ABI knows, in bytes.
        paths: (open O_PATH descriptor, allowed bits) pairs.
    """
    attributes = _Ruleset(fs, net, scoped)
    ruleset = _check(
        _libc.syscall(_LANDLOCK_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock"
    )
    try:
        for descriptor, allowed in paths:
            rule = _PathBeneath(allowed, descriptor)
            added = _libc.syscall(_LANDLOCK_ADD, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
            _check(added, "landlock")
        _check(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, ctypes.c_uint32(0)), "landlock")
    finally:
        os.close(ruleset)


def seccomp(operation: int, flags: int, argument: ctypes.Structure) -> int:
    """Set a filter; return a descriptor where a listener was asked for (seccomp(2))."""
    return _check(
        _libc.syscall(_number("seccomp"), ctypes.c_uint(operation), ctypes.c_uint(flags), ctypes.byref(argument)),
        "seccomp",
    )


def _number(name: str) -> int:
    try:
        return _NUMBERS[machine()][name]
    except KeyError:
        raise OSError(f"no {name} number known for {machine()}") from None


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return int(result)
