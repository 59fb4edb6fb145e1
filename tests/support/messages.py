"""HTTP/1.1 messages out of the bytes of a connection, and a search through everything that they carry."""

import base64
import binascii
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from tests.support.relay import Exchange

_HIDDEN_TEXT = re.compile(rb"[A-Za-z0-9_+/-]{24,}={0,2}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sent:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def requests(exchanges: Iterable[Exchange]) -> Iterator[Sent]:
    """Yield every whole request of these connections, in the order of each."""
    for exchange in exchanges:
        yield from _requests(bytes(exchange.asked))


def everything(exchanges: Iterable[Exchange]) -> bytes:
    """Return all bytes of these connections, followed by what their base64 texts (headers, tokens, boxes) say."""
    raw = b"\n".join(bytes(side) for exchange in exchanges for side in (exchange.asked, exchange.answered))
    return raw + b"\n" + b"\n".join(unfolded(raw))


def unfolded(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """Yield what the base64 and base64url texts in ``data`` say, and the texts within those."""
    for found in _HIDDEN_TEXT.finditer(data):
        text = found.group().rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
        with_padding = text + b"=" * (-len(text) % 4)
        try:
            inner = base64.b64decode(with_padding, validate=True)
        except binascii.Error:
            continue
        yield inner
        if depth > 1 and inner[:1] in (b"{", b"["):
            yield from unfolded(inner, depth - 1)


def _requests(stream: bytes) -> Iterator[Sent]:
    while b"\r\n\r\n" in stream:
        head, stream = stream.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert "chunked" not in headers.get("transfer-encoding", ""), "participants send bodies of a known length"
        length = int(headers.get("content-length", "0"))
        body, stream = stream[:length], stream[length:]
        yield Sent(method=method, path=path, headers=headers, body=body)
