"""The client for calls to other participants, against a real server that misbehaves on request."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from connector.peers.client import AddressRefusedError, PeerAnswerError, PeerClient, PeerUnreachableError

_BOMB = gzip.compress(b"x" * 50_000_000)


class _Issuer:
    def authorization(self, audience: str) -> str:
        return f"Bearer for {audience}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: set[object]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer(200, body, **{"x-authorization": self.headers.get("authorization", "none")})

    def do_GET(self) -> None:
        self.server.connections.add(self.connection)  # type: ignore[attr-defined]
        getattr(self, "_" + self.path.strip("/"))()

    def _fine(self) -> None:
        self._answer(200, b'{"fine": true}')

    def _text(self) -> None:
        self._answer(200, b"not json")

    def _moved(self) -> None:
        self._answer(302, b"", location="http://127.0.0.1:1/elsewhere")

    def _large(self) -> None:
        self._answer(200, b"x" * 10_000)

    def _bomb(self) -> None:
        self._answer(200, _BOMB, **{"content-encoding": "gzip"})

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass
        self.close_connection = True

    def _never(self) -> None:
        time.sleep(1.5)
        self.close_connection = True

    def _rude(self) -> None:
        self.close_connection = True

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.connections = set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def client(url: str) -> Iterator[PeerClient]:
    made = PeerClient(issuer=_Issuer(), permits=lambda asked: asked.startswith(url), read_seconds=0.5)
    yield made
    made.close()


def test_a_request_is_signed_for_its_audience(client: PeerClient, url: str) -> None:
    """The identity goes to the named audience, not without one, and not over a header that was given."""
    for audience, headers, expected in (
        ("did:web:b", None, "Bearer for did:web:b"),
        (None, None, "none"),
        ("did:web:b", {"Authorization": "Bearer own"}, "Bearer own"),
    ):
        answer = client.request("POST", url + "/echo", audience=audience, json={"a": 1}, headers=headers)
        assert (answer.status, answer.json()) == (200, {"a": 1})
        assert answer.headers["x-authorization"] == expected


def test_a_large_body_is_sent_and_read_in_pieces(client: PeerClient, url: str) -> None:
    """A vector larger than any buffer travels both ways without being one piece."""
    piece = bytes(range(256)) * 4096
    with client.stream(
        "POST", url + "/echo", audience=None, content=(piece for _ in range(12)), timeout=20, max_bytes=20_000_000
    ) as answer:
        sizes = [len(chunk) for chunk in answer.chunks]
    assert sum(sizes) == 12 * len(piece)
    assert len(sizes) > 1


def test_connections_are_kept_and_shared_between_threads(
    client: PeerClient, url: str, server: ThreadingHTTPServer
) -> None:
    """Requests in a row use one connection, and threads may share the client."""
    for _ in range(5):
        client.request("GET", url + "/fine", audience=None)
    assert len(server.connections) == 1  # type: ignore[attr-defined]
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(client.fetch_json(url + "/fine"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"fine": True}] * 8


def test_an_unknown_address_is_never_called(client: PeerClient) -> None:
    """The guard refuses before anything is sent, and does not show credentials of the URL."""
    with pytest.raises(AddressRefusedError, match="no known participant") as caught:
        client.request("GET", "http://user:hunter2@127.0.0.1:1/", audience=None)
    assert caught.value.whose == "ours"
    assert "hunter2" not in str(caught.value)


def test_redirects_are_answers(client: PeerClient, url: str) -> None:
    """A redirect is handed back as it is, never followed."""
    assert client.request("GET", url + "/moved", audience=None).status == 302


@pytest.mark.parametrize("path", ["/large", "/bomb"])
def test_an_answer_over_the_cap_is_refused(client: PeerClient, url: str, path: str) -> None:
    """The cap counts decompressed bytes."""
    with pytest.raises(PeerAnswerError, match="more than 1000 bytes"):
        client.request("GET", url + path, audience=None, max_bytes=1000)


@pytest.mark.parametrize("path", ["/never", "/endless"])
def test_a_slow_answer_ends_in_time(client: PeerClient, url: str, path: str) -> None:
    """Silence and a trickle of bytes both end at the time-out, as the world's fault."""
    with pytest.raises(PeerUnreachableError) as caught:
        client.request("GET", url + path, audience=None)
    assert caught.value.whose == "world"


def test_a_refused_connection_is_the_worlds_fault(url: str) -> None:
    """A participant that is not running is named with its address."""
    client = PeerClient(issuer=_Issuer(), permits=lambda _: True)
    with pytest.raises(PeerUnreachableError, match="/x cannot be reached") as caught:
        client.request("GET", "http://127.0.0.1:1/x", audience=None)
    assert caught.value.whose == "world"
    client.close()


def test_a_closed_connection_is_the_peers_fault(client: PeerClient, url: str) -> None:
    """A peer that hangs up without an answer is told apart from one that cannot be reached."""
    with pytest.raises(PeerUnreachableError, match="closed the connection") as caught:
        client.request("GET", url + "/rude", audience=None)
    assert caught.value.whose == "peer"


def test_text_is_not_json(client: PeerClient, url: str) -> None:
    """An answer that is no JSON, or has no success status, is the peer's fault."""
    with pytest.raises(PeerAnswerError):
        client.fetch_json(url + "/text")
    with pytest.raises(PeerAnswerError, match="302"):
        client.fetch_json(url + "/moved")
