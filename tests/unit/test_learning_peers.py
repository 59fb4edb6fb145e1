"""The learning API of other participants as this one calls it."""

import httpx2

from connector.peers.client import PeerClient
from connector.peers.learning import HttpLearningPeers
from tests.support.participants import Space


class Listener(httpx2.BaseTransport):
    """Keeps what it was sent."""

    def __init__(self) -> None:
        self.got: list[httpx2.Request] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Take a request."""
        request.read()
        self.got.append(request)
        return httpx2.Response(202, json={})


def test_vectors_travel_as_what_they_are(data_space: Space) -> None:
    """Raw bytes say so: without a type they would pass for JSON, and be refused for the bytes that no text has."""
    north = data_space.add("north", 8621)
    listener = Listener()
    client = PeerClient(issuer=north.foundation.issuer, permits=lambda _url: True, transport=listener)
    north.client.post("/management/peers", json={"address": north.settings.server.public_url}, headers=north.operator)
    peers = HttpLearningPeers(client, north.foundation.directory)
    peers.call(north.id, "POST", "/jobs/x/rounds", content=b"\x00\xff", headers={"Orchard-Opening": "x"})
    peers.call(north.id, "POST", "/jobs/x/end", json={"reason": "done"})
    assert [request.headers["content-type"] for request in listener.got] == [
        "application/octet-stream",
        "application/json",
    ]
    client.close()
