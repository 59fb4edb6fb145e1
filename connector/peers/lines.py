"""Kept connections for short exchanges with participants: a small body out, a whole answer in.

Every protocol message is one. The standard library's client spends a third of the processor time on it that a general
HTTP client does, and messages are most of what a connector does; everything else goes through httpx2.
"""

import contextlib
import dataclasses
import functools
import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

_IDLE_SECONDS = 30.0
_KEPT_PER_PLACE = 32
_CHUNK = 1 << 16
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, http.client.IncompleteRead)
# What a client adds by itself or must not be told by its caller.
_PLAIN: Mapping[str, str] = {"user-agent": "orchard-connector", "accept": "*/*", "accept-encoding": "identity"}


class LineClosedError(Exception):
    """The peer closed the connection without a whole answer."""


class LineTimeoutError(Exception):
    """The whole exchange took longer than it may."""


class AnswerTooLargeError(Exception):
    """The answer is larger than what may be read."""


class AnswerUnreadableError(Exception):
    """What came is no HTTP answer."""


class Lines:
    """Kept connections by scheme, host and port. Safe to share between threads."""

    def __init__(self, context: Callable[[], ssl.SSLContext], *, connect_seconds: float) -> None:
        """Prepare; ``context`` gives the certificates to trust when the first HTTPS connection is made."""
        self._make_context = context
        self._context: ssl.SSLContext | None = None
        self._connect_seconds = connect_seconds
        self._idle: dict[tuple[str, str], deque[tuple[http.client.HTTPConnection, float]]] = {}
        self._lock = threading.Lock()

    def exchange(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], seconds: float, max_bytes: int
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send a request and return status, body and headers (lower-case names) of the answer.

        Raises:
            LineClosedError: the peer closed the connection without a whole answer.
            LineTimeoutError: it was not done in ``seconds``.
            AnswerTooLargeError: more than ``max_bytes`` came.
            AnswerUnreadableError: what came is no HTTP.
            OSError: no connection.
        """
        parts, deadline = urlsplit(url), time.monotonic() + seconds
        place = (parts.scheme, parts.netloc)
        connection = self._kept(place) or self._open(parts, min(self._connect_seconds, seconds))
        try:
            found = self._through(connection, method, parts, body, {**_PLAIN, **headers}, deadline, max_bytes)
        except BaseException:
            connection.close()
            raise
        self._keep(place, connection)
        return found

    def close(self) -> None:
        """Close what is kept."""
        with self._lock:
            kept, self._idle = self._idle, {}
        for lines in kept.values():
            for connection, _ in lines:
                connection.close()

    def _through(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        parts: SplitResult,
        body: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
        max_bytes: int,
    ) -> tuple[int, bytes, dict[str, str]]:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            _limit(connection, deadline)
            connection.request(method, target, body, headers)
            connection.response_class = functools.partial(_answer, deadline)  # type: ignore[assignment] # called alike
            # Closed whatever happens: where the peer ends the connection itself, the answer holds the socket.
            with connection.getresponse() as answer:
                said = _read(answer, max_bytes)
        except TimeoutError as error:
            raise LineTimeoutError from error
        except _CLOSED as error:
            raise LineClosedError from error
        except (http.client.HTTPException, ValueError) as error:
            raise AnswerUnreadableError from error
        return answer.status, said, {name.lower(): value for name, value in answer.getheaders()}

    def _open(self, parts: SplitResult, seconds: float) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            with self._lock:
                self._context = self._context or self._make_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        try:
            connection.connect()
        except TimeoutError as error:
            raise LineTimeoutError from error
        return connection

    def _kept(self, place: tuple[str, str]) -> http.client.HTTPConnection | None:
        while True:
            with self._lock:
                lines = self._idle.get(place)
                if not lines:
                    return None
                connection, since = lines.pop()
            if time.monotonic() - since < _IDLE_SECONDS and not _readable(connection):
                return connection
            connection.close()

    def _keep(self, place: tuple[str, str], connection: http.client.HTTPConnection) -> None:
        if connection.sock is None:
            return
        with self._lock:
            lines = self._idle.setdefault(place, deque())
            lines.append((connection, time.monotonic()))
            old = lines.popleft() if len(lines) > _KEPT_PER_PLACE else None
        if old is not None:
            old[0].close()


class _Timed(io.RawIOBase):
    """What a peer sends, until a deadline: a time-out per piece would let it send a byte now and then for ever."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        # It keeps the socket open until the answer is read, also where the peer ends the connection with it.
        self._raw = connected.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


@dataclasses.dataclass(frozen=True)
class _Until:
    """A socket as far as an answer needs one."""

    connected: socket.socket
    deadline: float

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Timed(self.connected, self.deadline))


def _answer(deadline: float, connected: socket.socket, **options: Any) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(_Until(connected, deadline), **options)  # type: ignore[arg-type] # only makefile is asked


def _read(answer: http.client.HTTPResponse, max_bytes: int) -> bytes:
    length = answer.length
    if length is not None and length > max_bytes:
        raise AnswerTooLargeError
    if length is not None and length <= _CHUNK:
        return answer.read()
    pieces, total = [], 0
    while piece := answer.read1(_CHUNK):
        total += len(piece)
        if total > max_bytes:
            raise AnswerTooLargeError
        pieces.append(piece)
    return b"".join(pieces)


def _limit(connection: http.client.HTTPConnection, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _readable(connection: http.client.HTTPConnection) -> bool:
    """Whether a connection at rest has something to read: then the peer has closed it, or speaks out of turn."""
    if connection.sock is None:
        return True
    with contextlib.suppress(OSError, ValueError):
        watch = select.poll()
        watch.register(connection.sock, select.POLLIN)
        return bool(watch.poll(0))
    return True
