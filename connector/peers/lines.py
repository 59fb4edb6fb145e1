"""Kept connections for short exchanges with participants: a small body out, a whole answer in.

Every protocol message is one, and messages are most of what a connector does. A request goes out in one piece and its
answer is read by the parser that our server uses too: a tenth of the processor time of a general HTTP client, a third of
the standard library's. Everything else goes through httpx2.
"""

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

import httptools

_IDLE_SECONDS = 30.0
_KEPT_PER_PLACE = 32
_CHUNK = 1 << 16
# What an answer may need before its body begins.
_MOST_HEAD = 1 << 16
_CLOSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)
_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
# What a client adds by itself or must not be told by its caller.
_PLAIN: Mapping[str, str] = {"user-agent": "orchard-connector", "accept": "*/*", "accept-encoding": "identity"}
_NO_TARGET = re.compile(r"[\x00-\x20\x7f]")
_NO_HEADER = re.compile(r"[\r\n\0]")


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
        self._idle: dict[tuple[str, str], deque[tuple[socket.socket, float]]] = {}
        self._lock = threading.Lock()

    def exchange(
        self, method: str, url: str, *, body: bytes | None, headers: Mapping[str, str], seconds: float, max_bytes: int
    ) -> tuple[int, bytes, dict[str, str]]:
        """Send a request and return status, body and headers (lower-case names) of the answer.

        Raises:
            LineClosedError: the peer closed the connection without a whole answer.
            LineTimeoutError: it was not done in ``seconds``.
            AnswerTooLargeError: more than ``max_bytes`` came.
            AnswerUnreadableError: what came is no HTTP, or the request cannot be put as such.
            OSError: no connection.
        """
        parts, deadline = urlsplit(url), time.monotonic() + seconds
        try:
            head = _head(method, parts, {**_PLAIN, **headers}, body)
        except ValueError as error:
            raise AnswerUnreadableError from error
        place = (parts.scheme, parts.netloc)
        line = self._kept(place) or self._open(parts, min(self._connect_seconds, seconds))
        answer = _Answer(max_bytes, bodiless=method == "HEAD")
        try:
            _said(line, head, body, deadline)
            _heard(line, answer, deadline)
        except BaseException:
            line.close()
            raise
        if answer.kept:
            self._keep(place, line)
        else:
            line.close()
        return answer.status, b"".join(answer.pieces), answer.headers

    def close(self) -> None:
        """Close what is kept."""
        with self._lock:
            kept, self._idle = self._idle, {}
        for lines in kept.values():
            for line, _ in lines:
                line.close()

    def _open(self, parts: SplitResult, seconds: float) -> socket.socket:
        try:
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
            line = socket.create_connection((host, port), seconds)
            try:
                line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return self._trusted().wrap_socket(line, server_hostname=host) if parts.scheme == "https" else line
            except BaseException:
                line.close()
                raise
        except TimeoutError as error:
            raise LineTimeoutError from error
        except ValueError as error:
            raise AnswerUnreadableError from error

    def _trusted(self) -> ssl.SSLContext:
        with self._lock:
            self._context = self._context or self._make_context()
            return self._context

    def _kept(self, place: tuple[str, str]) -> socket.socket | None:
        while True:
            with self._lock:
                lines = self._idle.get(place)
                if not lines:
                    return None
                line, since = lines.pop()
            if time.monotonic() - since < _IDLE_SECONDS and not _readable(line):
                return line
            line.close()

    def _keep(self, place: tuple[str, str], line: socket.socket) -> None:
        with self._lock:
            lines = self._idle.setdefault(place, deque())
            lines.append((line, time.monotonic()))
            old = lines.popleft() if len(lines) > _KEPT_PER_PLACE else None
        if old is not None:
            old[0].close()


class _Answer:
    """An answer as it arrives: what the parser calls."""

    def __init__(self, most: int, *, bodiless: bool) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.done = False
        self.kept = False
        self._most = most
        self._bodiless = bodiless
        self._size = 0
        self._head = True
        self._too_large = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Read a piece.

        Raises:
            AnswerTooLargeError: more than may be read.
            AnswerUnreadableError: this is no HTTP answer.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.kept = False
            if not self.done:
                raise AnswerUnreadableError from error
        if self._head:
            self._size += len(data)
            if self._size > _MOST_HEAD:
                raise AnswerUnreadableError
        elif self._too_large:
            raise AnswerTooLargeError

    def ended(self) -> bool:
        """Return whether the answer is whole now that the peer has closed: one of no stated length ends so."""
        open_end = "content-length" not in self.headers and "transfer-encoding" not in self.headers
        return self.done or (not self._head and open_end)

    def on_message_begin(self) -> None:
        # A second answer to one request: nothing that comes on this line can be trusted.
        self.kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.done:
            return
        known, said = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[known] = f"{self.headers[known]}, {said}" if known in self.headers else said

    def on_headers_complete(self) -> None:
        if self.done:
            return
        self.status, self._head, self._size = self._parser.get_status_code(), False, 0
        if self._bodiless:
            self.done = True
        else:
            # As a number: the parser has let nothing else through.
            self._too_large = int(self.headers.get("content-length", "0").partition(",")[0]) > self._most

    def on_body(self, piece: bytes) -> None:
        if not self.done:
            self._size += len(piece)
            self._too_large = self._too_large or self._size > self._most
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        if self.done:
            return
        if self.status < HTTPStatus.OK:
            # Only that one is still to come.
            self.headers, self._head, self._size = {}, True, 0
            return
        self.done, self.kept = True, self._parser.should_keep_alive()


def _head(method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return the request's head.

    Raises:
        ValueError: the address or a header cannot stand in one.
    """
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    if _NO_TARGET.search(target) or _NO_TARGET.search(host) or not target.isascii():
        raise ValueError("an address without spaces, controls and other scripts")
    lines = [f"{method} {target} HTTP/1.1", f"host: {host if host.isascii() else host.encode('idna').decode()}"]
    for name, value in headers.items():
        if _NO_HEADER.search(name) or _NO_HEADER.search(value):
            raise ValueError("a header is one line")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def _said(line: socket.socket, head: bytes, body: bytes | None, deadline: float) -> None:
    try:
        _limit(line, deadline)
        if body is None or len(body) > _CHUNK:
            line.sendall(head)
            if body is not None:
                line.sendall(body)
        else:
            # In one piece, so that the peer wakes up once.
            line.sendall(head + body)
    except TimeoutError as error:
        raise LineTimeoutError from error
    except _CLOSED as error:
        raise LineClosedError from error


def _heard(line: socket.socket, answer: _Answer, deadline: float) -> None:
    try:
        while not answer.done:
            _limit(line, deadline)
            data = line.recv(_CHUNK)
            if data:
                answer.feed(data)
            elif answer.ended():
                return
            else:
                raise LineClosedError
    except TimeoutError as error:
        raise LineTimeoutError from error
    except _CLOSED as error:
        raise LineClosedError from error


def _limit(line: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    line.settimeout(left)


def _readable(line: socket.socket) -> bool:
    """Whether a connection at rest has something to read: then the peer has closed it, or speaks out of turn."""
    with contextlib.suppress(OSError, ValueError):
        watch = select.poll()
        watch.register(line, select.POLLIN)
        return bool(watch.poll(0))
    return True
