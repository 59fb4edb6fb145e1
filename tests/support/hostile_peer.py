"""A participant that misbehaves at the socket: it answers slowly, never, with rubbish, or with far too much."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

HUGE = 100 * 1024 * 1024
_HEAD = b"HTTP/1.1 200 OK\r\n"


class HostilePeer:
    """Listens on loopback and does to every request what ``manner`` says."""

    def __init__(self, manner: str) -> None:
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.sent = 0
        self._act: Callable[[socket.socket], None] = getattr(self, f"_{manner}")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def close(self) -> None:
        """Stop and wait for every thread."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(caller,), daemon=True))
            self._threads[-1].start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError), self._counted():
            caller.settimeout(15)
            # What lies in the kernel's buffers was not read by anybody.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            while b"\r\n\r\n" not in caller.recv(1 << 16):
                pass
            with self._lock:
                self.asked += 1
            self._act(caller)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self._lock:
                self.at_once -= 1

    def _send(self, caller: socket.socket, data: bytes) -> None:
        caller.sendall(data)
        with self._lock:
            self.sent += len(data)

    def _drip(self, caller: socket.socket, data: bytes) -> None:
        for byte in data:
            if self._stop.is_set():
                return
            self._send(caller, bytes([byte]))
            time.sleep(0.02)

    # The manners

    def _never(self, caller: socket.socket) -> None:
        """Take the request and say nothing until the caller has gone."""
        while not self._stop.is_set() and caller.recv(1 << 16):
            pass

    def _slow_head(self, caller: socket.socket) -> None:
        """Send a header without an end, byte by byte."""
        self._drip(caller, _HEAD + b"x-long: " + b"a" * 100_000)

    def _slow_body(self, caller: socket.socket) -> None:
        """Announce a body of moderate length and send it byte by byte."""
        self._send(caller, _HEAD + b"content-length: 60000\r\n\r\n")
        self._drip(caller, b"{" * 60_000)

    def _endless_body(self, caller: socket.socket) -> None:
        """Send a body without a length, byte by byte."""
        self._send(caller, _HEAD + b"\r\n")
        self._drip(caller, b"{" * 60_000)

    def _huge(self, caller: socket.socket) -> None:
        """Send 100 MB without saying so first."""
        self._send(caller, _HEAD + b"connection: close\r\n\r\n")
        for _ in range(HUGE // (1 << 16)):
            self._send(caller, b" " * (1 << 16))

    def _huge_announced(self, caller: socket.socket) -> None:
        """Announce 100 MB and send them."""
        self._send(caller, _HEAD + f"content-length: {HUGE}\r\n\r\n".encode())
        for _ in range(HUGE // (1 << 16)):
            self._send(caller, b" " * (1 << 16))

    def _huge_chunks(self, caller: socket.socket) -> None:
        """Send 100 MB in chunks."""
        self._send(caller, _HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(HUGE // (1 << 16)):
            self._send(caller, b"10000\r\n" + b" " * (1 << 16) + b"\r\n")

    def _garbage(self, caller: socket.socket) -> None:
        """Send no HTTP."""
        self._send(caller, os.urandom(4096))

    def _hang_up(self, caller: socket.socket) -> None:
        """Close the connection."""

    def _broken(self, caller: socket.socket) -> None:
        """Answer 503."""
        self._send(caller, b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    def _html(self, caller: socket.socket) -> None:
        """Answer 200 with something else than the protocol's."""
        self._send(caller, _HEAD + b"content-length: 13\r\nconnection: close\r\n\r\n<html></html>")
