"""The system-call rung: a seccomp filter whose listener tells the fork server what a step tried.

A forbidden call stops in the kernel until the supervisor has read its number; the supervisor then kills the step, so a
step cannot catch the refusal and go on. Where no listener can be had the filter kills the process at once.
Everything not listed stays open: files are Landlock's part, and torch needs a wide and changing set of calls.
"""

import ctypes
import fcntl
import os
import socket
import struct

from connector.sandbox import kernel

# name: (x86_64, aarch64); None where the architecture has no such call. Numbers from asm/unistd_64.h and
# asm-generic/unistd.h.
_FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "execve": (59, 221), "execveat": (322, 281), "fork": (57, None),
    "vfork": (58, None), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "userfaultfd": (323, 282), "kexec_load": (246, 104), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "tkill": (200, 130),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "mknod": (133, None), "mknodat": (259, 33),
    "symlink": (88, None), "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37),
    "process_madvise": (440, 440), "personality": (135, 92), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "sethostname": (170, 161),
}  # fmt: skip
_SIGNALS = {"kill": (62, 129), "tgkill": (234, 131)}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_LIMITS = (302, 261)
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_CLONE_THREAD = 0x00010000

_LD, _JEQ, _JSET, _JGE, _RET = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL, _NOTIFY = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
_ENOSYS = 38
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARG0, _OFFSET_ARG2 = 0, 4, 16, 32
_SET_MODE_FILTER, _FLAG_NEW_LISTENER = 1, 8
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_NOTIF_RECV = 0xC0502100
_FAMILIES = {socket.AF_UNIX: "unix", socket.AF_INET: "inet", socket.AF_INET6: "inet6", 16: "netlink"}
_TYPES = {1: "tcp", 2: "udp", 3: "raw"}
_PROGRAM_CALLS = {"execve", "execveat"}
_PROCESS_CALLS = {"fork", "vfork", "clone"}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def supported() -> bool:
    """Say whether the filter knows this processor's call numbers."""
    return kernel.machine() in _ARCH


def install(*, listener: bool) -> int | None:
    """Enforce the filter on this process; return the listener's descriptor if one was asked for.

    ``no_new_privileges`` must have been called.

    Raises:
        OSError: the kernel refuses the filter, or the processor is not known.
    """
    code = _program(_NOTIFY if listener else _KILL, os.getpid())
    program = _Program(len(code) // 8, code)
    descriptor = kernel.seccomp(_SET_MODE_FILTER, _FLAG_NEW_LISTENER if listener else 0, program)
    return descriptor if listener else None


def receive(descriptor: int) -> str:
    """Return what a stopped step tried, in words, e.g. ``socket (tcp)`` or ``start a program (execve)``."""
    buffer = bytearray(_NOTIFICATION.size)
    fcntl.ioctl(descriptor, _NOTIF_RECV, buffer)
    _, _, _, number, _, _, first, second, *_ = _NOTIFICATION.unpack(buffer)
    return _words(number, first, second)


def _words(number: int, first: int, second: int) -> str:
    index = 0 if kernel.machine() == "x86_64" else 1
    calls = _FORBIDDEN | _SIGNALS | {"clone": _CLONE, "prlimit64": _LIMITS}
    name = next((name for name, numbers in calls.items() if numbers[index] == number), f"call {number}")
    if name in {"socket", "socketpair"}:
        family = _FAMILIES.get(first, f"family {first}")
        kind = _TYPES.get(second & 0xF, "other") if family.startswith("inet") else family
        return f"socket ({kind})"
    if name in _PROGRAM_CALLS:
        return f"start a program ({name})"
    if name in _PROCESS_CALLS:
        return f"start a process ({name})"
    return f"system call {name}"


def _program(refusal: int, pid: int) -> bytes:
    index = 0 if kernel.machine() == "x86_64" else 1
    code = [
        _step(_LD, _OFFSET_ARCH),
        _step(_JEQ, _ARCH[kernel.machine()], yes=1),
        _step(_RET, _KILL),
        _step(_LD, _OFFSET_NR),
    ]
    if index == 0:
        code += [_step(_JGE, _X32, no=1), _step(_RET, _KILL)]
    # glibc falls back to clone, whose flags a filter can read, when clone3 does not exist.
    code += [_step(_JEQ, _CLONE3[index], no=1), _step(_RET, _ERRNO | _ENOSYS)]
    code += [_step(_JEQ, _CLONE[index], no=4), _step(_LD, _OFFSET_ARG0), _step(_JSET, _CLONE_THREAD, no=1)]
    code += [_step(_RET, _ALLOW), _step(_RET, refusal)]
    # Limits may be read (a null new value), never set; a step may signal itself (abort) and nobody else.
    code += [_step(_JEQ, _LIMITS[index], no=6), _step(_LD, _OFFSET_ARG2), _step(_JEQ, 0, no=3)]
    code += [_step(_LD, _OFFSET_ARG2 + 4), _step(_JEQ, 0, no=1), _step(_RET, _ALLOW), _step(_RET, refusal)]
    for numbers in _SIGNALS.values():
        code += [_step(_JEQ, numbers[index], no=4), _step(_LD, _OFFSET_ARG0), _step(_JEQ, pid, no=1)]
        code += [_step(_RET, _ALLOW), _step(_RET, refusal)]
    for forbidden in _FORBIDDEN.values():
        number = forbidden[index]
        if number is not None:
            code += [_step(_JEQ, number, no=1), _step(_RET, refusal)]
    code.append(_step(_RET, _ALLOW))
    return b"".join(code)


def _step(operation: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, yes, no, value)
