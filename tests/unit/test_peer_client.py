"""The client for calls to other participants, against a real server that misbehaves on request."""

import functools
import gzip
import socket
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


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: a\r\n"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ([_HEAD + b"content-length: 2\r\n\r\nhi"], (200, b"hi", "a")),
        ([_HEAD + b"content-length: 2\r\n\r\n", b"h", b"i"], (200, b"hi", "a")),
        ([_HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nh\r\n", b"1\r\ni\r\n0\r\n\r\n"], (200, b"hi", "a")),
        ([_HEAD + b"\r\nhi"], (200, b"hi", "a")),
        ([b"HTTP/1.0 200 OK\r\n\r\nhi"], (200, b"hi", None)),
        ([_HEAD + b"content-length: 0\r\nContent-Type: b\r\n\r\n"], (200, b"", "a, b")),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, b"", None)),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + _HEAD + b"content-length: 2\r\n\r\nhi"], (200, b"hi", "a")),
        ([_HEAD + b"content-length: 2\r\n\r\nhi", _HEAD], (200, b"hi", "a")),
        ([_HEAD + b"content-length: 3\r\n\r\nhi"], "closed the connection"),
        ([_HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhi"], "closed the connection"),
        ([_HEAD], "closed the connection"),
        ([], "closed the connection"),
        ([_HEAD + b"content-length: 1001\r\n\r\n"], "more than 1000 bytes"),
        ([_HEAD + b"content-length: 1" + b"0" * 400 + b"\r\n\r\n"], "cannot be read"),
        ([_HEAD + b"\r\n" + b"x" * 1001], "more than 1000 bytes"),
        ([_HEAD + b"x: " + b"y" * 70_000], "cannot be read"),
        ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], "cannot be read"),
        ([b"SSH-2.0-OpenSSH\r\n"], "cannot be read"),
        ([b"\0" * 100], "cannot be read"),
    ],
)
def test_answers_of_every_form_are_read_or_refused(answer: list[bytes], found: tuple[object, ...] | str) -> None:
    """By length, in chunks, until the end of the line; what is cut off, too large or no HTTP is the peer's fault."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            said, _ = listening.accept()
            with said:
                said.recv(1 << 16)
                for piece in answer:
                    said.sendall(piece)
                    time.sleep(0.02)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        client = PeerClient(issuer=_Issuer(), permits=lambda _: True)
        ask = functools.partial(client.request, "POST", url, audience=None, content=b"{}", max_bytes=1000)
        if isinstance(found, str):
            with pytest.raises(PeerUnreachableError, match=found) as caught:
                ask()
            assert caught.value.whose == "peer"
        else:
            said = ask()
            assert (said.status, said.body, said.headers.get("content-type")) == found
        client.close()
        thread.join()


@pytest.mark.parametrize("sent", [{"x": "a\r\nauthorization: other"}, {"x\n": "a"}, {"x": "a\0"}])
def test_a_header_cannot_bring_another(client: PeerClient, url: str, sent: dict[str, str]) -> None:
    """Nothing is sent of a request whose header is more than one line."""
    with pytest.raises(PeerAnswerError, match="cannot be read"):
        client.request("POST", url + "/x", audience=None, content=b"", headers=sent)
    with pytest.raises(PeerAnswerError, match="cannot be read"):
        client.request("POST", url + "/a b", audience=None, content=b"")


def test_a_line_on_which_too_much_came_is_not_kept(client: PeerClient) -> None:
    """What a peer says unasked after its answer is nobody's answer: the next request has a line of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answers = [b"one", b"two"]

        def serve() -> None:
            for body in answers:
                said, _ = listening.accept()
                said.recv(1 << 16)
                whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
                said.sendall(whole + body + whole + b"bad")
                kept.append(said)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        client = PeerClient(issuer=_Issuer(), permits=lambda _: True)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        assert [client.request("GET", url, audience=None).body for _ in answers] == answers
        thread.join()
        client.close()
        for said in kept:
            said.close()
