"""Steps that misbehave, one per word in the step's ``step.json``: what the sandbox must stop."""

import ctypes
import json
import os
import socket
import subprocess
import time
from pathlib import Path


def preload() -> None:
    """Load nothing: these steps need no library."""


def run(step_dir: Path, out_dir: Path) -> None:
    """Do what ``step.json`` says."""
    step = json.loads((step_dir / "step.json").read_text(encoding="utf-8"))
    _ACTS[step["act"]](out_dir, step.get("path", ""))


def _write(out_dir: Path, _path: str) -> None:
    (out_dir / "out.safetensors").write_bytes(b"result")


def _connect(kind: int, family: int = socket.AF_INET) -> None:
    socket.socket(family, kind)


def _catch(out_dir: Path, path: str) -> None:
    try:
        _connect(socket.SOCK_DGRAM)
    except OSError:
        _write(out_dir, path)


def _probe_environment(out_dir: Path, _path: str) -> None:
    (out_dir / "out.safetensors").write_text(json.dumps(sorted(os.environ)), encoding="utf-8")


def _loop(_out: Path, _path: str) -> None:
    while True:
        pass


def _fork(_out: Path, _path: str) -> None:
    if os.fork() == 0:
        os._exit(0)


def _segfault(_out: Path, _path: str) -> None:
    ctypes.string_at(0)


def _tell(_out: Path, _path: str) -> None:
    raise type("Learner4711AnsweredWrongly", (Exception,), {})


def _raise(_out: Path, _path: str) -> None:
    raise ValueError("learner 4711 answered wrongly")


_ACTS = {
    "write": _write,
    "tcp": lambda out, path: _connect(socket.SOCK_STREAM),
    "udp": lambda out, path: _connect(socket.SOCK_DGRAM),
    "unix": lambda out, path: _connect(socket.SOCK_STREAM, socket.AF_UNIX),
    "catch": _catch,
    "read": lambda out, path: Path(path).read_bytes(),
    "list": lambda out, path: list(Path(path).iterdir()),
    "program": lambda out, path: subprocess.run(["/bin/true"], check=True),
    "execute": lambda out, path: os.execv("/bin/true", ["true"]),  # noqa: S606 - what the sandbox must stop
    "fork": _fork,
    "elsewhere": lambda out, path: Path(path).write_bytes(b"x"),
    "kill": lambda out, path: os.kill(os.getppid(), 9),
    "allocate": lambda out, path: bytearray(1 << 40),
    "fill": lambda out, path: [bytearray(1 << 24) for _ in range(10_000)],
    "loop": _loop,
    "sleep": lambda out, path: time.sleep(60),
    "large": lambda out, path: (out / "out.safetensors").write_bytes(bytes(1 << 21)),
    "two": lambda out, path: [_write(out, path), (out / "more").write_bytes(b"x")],
    "link": lambda out, path: (out / "out.safetensors").symlink_to("/etc/passwd"),
    "nothing": lambda out, path: None,
    "segfault": _segfault,
    "raise": _raise,
    "tell": _tell,
    "environment": _probe_environment,
}
