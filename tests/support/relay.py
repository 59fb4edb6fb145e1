"""A TCP relay in front of a participant: it passes every byte on and keeps what processes other than this one said."""

import contextlib
import dataclasses
import socket
import threading
from pathlib import Path

_PIECE = 1 << 16


@dataclasses.dataclass(kw_only=True)
class Exchange:
    """One connection: what its opener sent and what it was answered."""

    asked: bytearray = dataclasses.field(default_factory=bytearray)
    answered: bytearray = dataclasses.field(default_factory=bytearray)


class Relay:
    """Listens on ``port`` and forwards to ``target``, both on loopback."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", port), backlog=128)
        self.exchanges: list[Exchange] = []
        threading.Thread(target=self._accept, name=f"relay-{port}", daemon=True).start()

    def close(self) -> None:
        """Accept nothing more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, (_, port) = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller, port), name="relay", daemon=True).start()

    def _serve(self, caller: socket.socket, port: int) -> None:
        exchange = None if _ours(port) else Exchange()
        if exchange is not None:
            self.exchanges.append(exchange)
        with caller, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as behind:
            back = threading.Thread(
                target=_pump, args=(behind, caller, exchange.answered if exchange else None), daemon=True
            )
            back.start()
            _pump(caller, behind, exchange.asked if exchange else None)
            back.join()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            if kept is not None:
                kept += piece
            sink.sendall(piece)
    for side in (source, sink):
        with contextlib.suppress(OSError):
            side.shutdown(socket.SHUT_RDWR)


def _ours(port: int) -> bool:
    """Say whether the connection from a local port was opened by this process: an operator or a learner of the test."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == f"0100007F:{port:04X}":
            return f"socket:[{fields[9]}]" in _own_sockets()
    return False


def _own_sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()))
    return found
