"""The one HTTP client for calls to other participants and to configured sources.

Connections are kept and shared between threads. Redirects are not followed, answers are read up to a cap, time is
limited as a whole, and only addresses of known participants (or ones an operator typed) are ever called.
"""

import contextlib
import dataclasses
import functools
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol, TypeAlias
from urllib.parse import SplitResult, urlsplit

import httpx2

from connector.peers.lines import (
    AnswerTooLargeError,
    AnswerUnreadableError,
    LineClosedError,
    Lines,
    LineTimeoutError,
)

MAX_ANSWER = 8 * 1024 * 1024
_LIMITS = httpx2.Limits(max_connections=200, max_keepalive_connections=100, keepalive_expiry=30.0)

Transport: TypeAlias = httpx2.BaseTransport
Whose = Literal["ours", "peer", "world"]


class PeerUnreachableError(Exception):
    """A call did not end in an answer. ``whose`` fault: the ``peer``'s, the ``world``'s (network, time-out) or ``ours``.

    The message names the address called, never what was sent or received.
    """

    code = "peer-unreachable"

    def __init__(self, whose: Whose, detail: str) -> None:
        """Say whose fault it is and what happened."""
        super().__init__(detail)
        self.whose = whose


class AddressRefusedError(PeerUnreachableError):
    """The address belongs to no participant we know; nothing was sent."""

    code = "address-refused"

    def __init__(self, detail: str) -> None:
        """Say which address."""
        super().__init__("ours", detail)


class PeerAnswerError(PeerUnreachableError):
    """The peer answered with something that cannot be used; the peer's fault."""

    code = "peer-answer"

    def __init__(self, detail: str) -> None:
        """Say what is wrong with the answer, without quoting it."""
        super().__init__("peer", detail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerResponse:
    """An answer: HTTP status, the whole body, and headers with lower-case names."""

    status: int
    body: bytes = dataclasses.field(repr=False)
    headers: Mapping[str, str] = dataclasses.field(repr=False)

    def json(self) -> object:
        """Return the body as JSON.

        Raises:
            PeerAnswerError: it is no JSON.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise PeerAnswerError("the answer is not JSON") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerStream:
    """An answer whose body is read piece by piece."""

    status: int
    headers: Mapping[str, str] = dataclasses.field(repr=False)
    chunks: Iterator[bytes] = dataclasses.field(repr=False)


class Issuer(Protocol):
    """Makes the ``Authorization`` header for a request to a participant."""

    def authorization(self, audience: str) -> str:
        """Return the header's value."""
        ...


class PeerClient:
    """Sends requests to known addresses, signed for their audience. Safe to share between threads."""

    def __init__(
        self,
        *,
        issuer: Issuer,
        permits: Callable[[str], bool],
        connect_seconds: float = 5.0,
        read_seconds: float = 30.0,
        ca_file: Path | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Prepare a client; the first request opens the first connection.

        Args:
            issuer: signs requests that name an audience.
            permits: whether a URL may be called at all.
            connect_seconds: time to connect.
            read_seconds: time for a whole exchange, unless a call says otherwise.
            ca_file: PEM file of the certificate authorities to trust instead of the system's.
            transport: how requests travel instead of over sockets, e.g. between two apps of one process.
        """
        self._issuer = issuer
        self._permits = permits
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._ca_file = ca_file
        self._transport = transport
        self._opened: httpx2.Client | None = None
        self._lock = threading.Lock()
        self._lines = Lines(self._trusted, connect_seconds=connect_seconds)

    def request(
        self,
        method: str,
        url: str,
        *,
        audience: str | None,
        json: object | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_bytes: int = MAX_ANSWER,
        again: bool = False,
    ) -> PeerResponse:
        """Send a request and return the whole answer, whatever its status.

        Args:
            method: HTTP method.
            url: absolute URL below a permitted address.
            audience: participant id the request is signed for; None sends no identity. A given ``authorization``
                header takes its place.
            json: a value to send as JSON.
            content: raw bytes, or pieces of them for a large body.
            headers: further headers.
            timeout: seconds for the whole exchange.
            max_bytes: largest answer to read, after decompression.
            again: the request is harmless to repeat; a GET always is.

        Raises:
            PeerUnreachableError: no answer in time, or one that breaks the rules above.
        """
        again = again or method in {"GET", "HEAD"}
        if self._transport is None and json is None and (content is None or isinstance(content, bytes)):
            return self._short(method, url, audience, content, headers, timeout, max_bytes, again=again)
        arguments = {"json": json, "content": content, "headers": headers, "timeout": timeout, "max_bytes": max_bytes}
        while True:
            try:
                with self.stream(method, url, audience=audience, **arguments) as answer:  # type: ignore[arg-type]
                    return PeerResponse(status=answer.status, body=b"".join(answer.chunks), headers=answer.headers)
            except _StaleConnectionError:
                # The peer closed a kept connection as we used it.
                if not again:
                    raise
                again = False

    def _short(
        self,
        method: str,
        url: str,
        audience: str | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
        max_bytes: int,
        *,
        again: bool,
    ) -> PeerResponse:
        self._require_permit(url)
        deadline = time.monotonic() + (self._read_seconds if timeout is None else timeout)
        while True:
            given = self._signed(audience, headers)
            left = max(0.0, deadline - time.monotonic())
            try:
                with _translated_line(url, max_bytes):
                    status, body, said = self._lines.exchange(
                        method, url, body=content, headers=given, seconds=left, max_bytes=max_bytes
                    )
            except _StaleConnectionError:
                if not again:
                    raise
                again = False
            else:
                return PeerResponse(status=status, body=body, headers=said)

    def _require_permit(self, url: str) -> None:
        if not self._permits(url):
            raise AddressRefusedError(f"{_place(url)} is the address of no known participant; add it as a peer first")

    def _signed(self, audience: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if audience is not None and "authorization" not in given:
            given["authorization"] = self._issuer.authorization(audience)
        return given

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        audience: str | None,
        json: object | None = None,
        content: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_bytes: int = MAX_ANSWER,
    ) -> Iterator[PeerStream]:
        """Send a request and give the answer while its body arrives; as :meth:`request` otherwise."""
        self._require_permit(url)
        seconds = self._read_seconds if timeout is None else timeout
        given = self._signed(audience, headers)
        limits = httpx2.Timeout(seconds, connect=min(self._connect_seconds, seconds))
        deadline = time.monotonic() + seconds
        with (
            _translated(url),
            self._client().stream(
                method, url, json=json, content=content, headers=given, timeout=limits, follow_redirects=False
            ) as answer,
        ):
            # Header names of a response are case-insensitive; httpx2 yields them in lower case.
            chunks = _capped(answer.iter_bytes(), url, max_bytes, deadline)
            yield PeerStream(status=answer.status_code, headers=dict(answer.headers.items()), chunks=chunks)

    def fetch_json(self, url: str, *, audience: str | None = None, headers: Mapping[str, str] | None = None) -> object:
        """Return the JSON that a GET of ``url`` answers with status 200.

        Raises:
            PeerUnreachableError: no answer, another status, or no JSON.
        """
        answer = self.request("GET", url, audience=audience, headers={"accept": "application/json", **(headers or {})})
        if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
            raise PeerAnswerError(f"{_place(url)} answered with status {answer.status}")
        return answer.json()

    def close(self) -> None:
        """Close every kept connection."""
        self._lines.close()
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _client(self) -> httpx2.Client:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    self._opened = self._open()
        return self._opened

    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file is not None else None)

    def _open(self) -> httpx2.Client:
        verify: ssl.SSLContext | bool = True
        if self._ca_file is not None:
            verify = ssl.create_default_context(cafile=str(self._ca_file))
        return httpx2.Client(
            verify=verify,
            trust_env=False,
            limits=_LIMITS,
            transport=self._transport,
            headers={"user-agent": "orchard-connector"},
        )


class _StaleConnectionError(PeerUnreachableError):
    """The peer closed the connection without a word."""


def below(url: str, address: str) -> bool:
    """Return whether ``url`` lies at or below the base URL ``address``: same scheme, host, port and path prefix."""
    try:
        asked, (place, root) = urlsplit(url), _base(address)
        same = (asked.scheme, asked.hostname, _port(asked)) == place
    except ValueError:
        return False
    if not same or asked.scheme not in {"http", "https"} or asked.username is not None or "\\" in url:
        return False
    segments = asked.path.replace("%2e", ".").replace("%2E", ".").split("/")
    return not {".", ".."} & set(segments) and (asked.path == root or asked.path.startswith(root + "/"))


@functools.lru_cache(maxsize=1024)
def _base(address: str) -> tuple[tuple[str, str | None, int], str]:
    """Return what every URL below ``address`` begins with: scheme, host and port, and the path."""
    base = urlsplit(address)
    return (base.scheme, base.hostname, _port(base)), base.path.rstrip("/")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _capped(chunks: Iterator[bytes], url: str, max_bytes: int, deadline: float) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > max_bytes:
            raise PeerAnswerError(f"{_place(url)} answered with more than {max_bytes} bytes")
        if time.monotonic() > deadline:
            raise PeerUnreachableError("world", f"{_place(url)} did not finish its answer in time")
        yield chunk


@contextlib.contextmanager
def _translated_line(url: str, max_bytes: int) -> Iterator[None]:
    try:
        yield
    except LineTimeoutError as error:
        raise PeerUnreachableError("world", f"{_place(url)} did not answer in time") from error
    except LineClosedError as error:
        raise _StaleConnectionError("peer", f"{_place(url)} closed the connection") from error
    except AnswerTooLargeError as error:
        raise PeerAnswerError(f"{_place(url)} answered with more than {max_bytes} bytes") from error
    except AnswerUnreadableError as error:
        raise PeerAnswerError(f"{_place(url)} answered with a body or address that cannot be read") from error
    except OSError as error:
        raise PeerUnreachableError("world", f"{_place(url)} cannot be reached; is that participant running?") from error


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    place = _place(url)
    try:
        yield
    except httpx2.ConnectError as error:
        raise PeerUnreachableError("world", f"{place} cannot be reached; is that participant running?") from error
    except httpx2.TimeoutException as error:
        raise PeerUnreachableError("world", f"{place} did not answer in time") from error
    except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
        raise _StaleConnectionError("peer", f"{place} closed the connection") from error
    except (httpx2.DecodingError, httpx2.InvalidURL) as error:
        raise PeerAnswerError(f"{place} answered with a body or address that cannot be read") from error
    except httpx2.HTTPError as error:
        raise PeerUnreachableError("world", f"{place} cannot be reached ({type(error).__name__})") from error
