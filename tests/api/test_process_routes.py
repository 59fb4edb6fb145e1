"""The routes every participant has, and what all routes share: identity, limits, problems, logs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from fastapi import APIRouter
from pydantic import BaseModel

from connector.app import Wiring
from connector.foundation import Foundation
from connector.http.access import Peer
from connector.http.health import Probe
from connector.http.peers import peers_router
from connector.http.wellknown import wellknown_router
from connector.identity.did import did_document
from connector.identity.files import read_secret
from connector.identity.operators import OperatorVerifier
from connector.identity.tokens import IdentityVerifier
from tests.support.participants import Participant, Space


class Item(BaseModel):
    name: str
    count: int


def _router() -> APIRouter:
    router = APIRouter(prefix="/learning")

    @router.post("/echo")
    def echo(item: Item) -> Item:
        return item

    @router.get("/whoami")
    def whoami(peer: Peer) -> dict[str, str]:
        return {"name": peer.name}

    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError("the secret is hunter2")

    return router


def _absent() -> None:
    raise ConnectionRefusedError


class _Beat:
    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")


BEAT = _Beat()


def _wire(foundation: Foundation) -> Wiring:
    settings = foundation.settings
    return Wiring(
        peers=IdentityVerifier(
            participant_id=settings.participant.id,
            authority=foundation.authority,
            now=foundation.now,
            on_verified=foundation.directory.learn,
        ),
        operators=OperatorVerifier(
            participant_id=settings.participant.id,
            token=read_secret(settings.management.token_file),
            issuer=None,
            jwks=None,
            now=foundation.now,
        ),
        routers=(
            wellknown_router(did_document(foundation.identity, foundation.membership)),
            peers_router(foundation.directory, foundation.admit),
            _router(),
        ),
        drivers=(BEAT,),
        probes=(
            Probe(name="database", check=lambda: None, required=True),
            Probe(name="broker", check=_absent, required=False),
        ),
        closing=(foundation.close,),
    )


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    made = Space(tmp_path, _wire)
    yield made
    made.close()


@pytest.fixture
def north(space: Space) -> Participant:
    return space.add("north", 8101)


def test_a_missing_broker_leaves_the_process_ready(north: Participant) -> None:
    """Readiness names every part, and fails only for a required one."""
    answer = north.client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ready", "parts": {"database": "ok", "broker": "ConnectionRefusedError"}},
    )
    assert north.client.get("/health/live").json() == {"status": "live"}


def test_metrics_are_for_operators(north: Participant) -> None:
    """Counters need the operator's token and count by route, not by path."""
    north.client.get("/health/live")
    assert north.client.get("/metrics").status_code == 401
    text = north.client.get("/metrics", headers=north.operator).text
    assert 'orchard_http_requests_total{method="GET",route="/health/live",status="200"} 1.0' in text


def test_operators_without_a_token_get_a_problem(north: Participant) -> None:
    """A missing or wrong token is answered 401 as problem+json, and the body does not repeat it."""
    answer = north.client.get("/management/peers", headers={"authorization": "Bearer hunter2"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unknown-token"
    assert "hunter2" not in answer.text


def test_participants_meet_by_address(space: Space, north: Participant) -> None:
    """An operator types an address; the participant there is verified, stored and can then be called."""
    south = space.add("south", 8102)
    url = south.settings.server.public_url
    answer = north.client.post("/management/peers", json={"address": url + "/"}, headers=north.operator)
    assert answer.status_code == 201
    assert answer.json()["participant_id"] == south.id
    listed = north.client.get("/management/peers", headers=north.operator).json()
    assert [one["participant_id"] for one in listed["peers"]] == [south.id]
    reply = north.foundation.client.request("GET", f"{url}/learning/whoami", audience=south.id)
    assert (reply.status, reply.json()) == (200, {"name": "north"})
    # The called one has learned its caller from the token alone, and can answer it.
    assert south.foundation.directory.permits(north.settings.server.public_url + "/dsp")


def test_a_page_of_peers_has_a_cursor(space: Space, north: Participant) -> None:
    """A list longer than the page ends with the cursor of the next."""
    for port in (8102, 8103):
        address = space.add(f"s{port}", port).settings.server.public_url
        north.client.post("/management/peers", json={"address": address}, headers=north.operator)
    first = north.client.get("/management/peers?limit=1", headers=north.operator).json()
    rest = north.client.get("/management/peers", params={"after": first["next"]}, headers=north.operator).json()
    assert len(first["peers"]) == len(rest["peers"]) == 1
    assert rest["next"] is None


def test_an_address_where_nobody_answers_is_said_so(north: Participant) -> None:
    """An unreachable address gives 502 with a sentence that names it."""
    answer = north.client.post("/management/peers", json={"address": "http://127.0.0.1:9"}, headers=north.operator)
    assert (answer.status_code, answer.json()["code"]) == (502, "peer-unreachable")
    assert "http://127.0.0.1:9" in answer.json()["detail"]


def test_a_participant_of_another_data_space_is_not_admitted(space: Space, north: Participant, tmp_path: Path) -> None:
    """A membership by a foreign authority does not hold."""
    other = Space(tmp_path / "other", _wire)
    foreign = other.add("foreign", 8109)
    space.network.apps.update(other.network.apps)
    address = foreign.settings.server.public_url
    answer = north.client.post("/management/peers", json={"address": address}, headers=north.operator)
    assert (answer.status_code, answer.json()["code"]) == (502, "bad-signature")
    assert north.client.get("/management/peers", headers=north.operator).json()["peers"] == []
    other.close()


def test_a_refused_request_is_not_echoed(north: Participant) -> None:
    """A validation problem names the place and the rule, never the value."""
    answer = north.client.post("/learning/echo", json={"name": ["hunter2"], "count": "hunter2", "x hunter2": 1})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert {error["where"] for error in answer.json()["errors"]} == {"body.name", "body.count"}


@pytest.mark.parametrize("body", [b"{", b"[" * 10_000, b"\xff", b""])
def test_bodies_that_are_no_json_are_problems(north: Participant, body: bytes) -> None:
    """Bytes that are not JSON, however nested, give a 4xx problem."""
    answer = north.client.post("/learning/echo", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unexpected_error_tells_nothing(north: Participant) -> None:
    """A fault of ours is answered 500 without its message."""
    answer = north.client.get("/learning/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert "hunter2" not in answer.text


def test_unknown_routes_and_methods_are_problems(north: Participant) -> None:
    """404 and 405 come as problem+json too."""
    assert north.client.get("/nowhere").json()["code"] == "not-found"
    assert north.client.put("/learning/echo").json()["code"] == "method-not-allowed"


def test_a_body_over_the_limit_is_refused(north: Participant) -> None:
    """Neither an announced nor a streamed body may pass its route's limit."""
    large = b" " * (9 * 1024 * 1024)
    headers = north.operator | {"content-type": "application/json"}
    for content in (large, iter([large[: 5 * 1024 * 1024], large[: 5 * 1024 * 1024]])):
        answer = north.client.post("/management/peers", content=content, headers=headers)
        assert answer.status_code == 413, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_access_log_has_no_query(north: Participant) -> None:
    """A refused request's line holds its path and status, and no query string."""
    with structlog.testing.capture_logs() as lines:
        north.client.get("/nowhere?learner=hunter2")
    (line,) = [one for one in lines if one["event"] == "request"]
    assert (line["path"], line["status"], line["log_level"]) == ("/nowhere", 404, "info")
    assert "hunter2" not in str(line)


def test_the_did_document_carries_key_and_membership(north: Participant) -> None:
    """The DID document names the participant and holds the key that signs its requests."""
    document = north.client.get("/.well-known/did.json").json()
    assert document["id"] == north.id
    assert document["verificationMethod"][0]["publicKeyJwk"]["x"] == north.foundation.signer.public_key
    assert document["membership"] == north.foundation.membership


def test_drivers_live_as_long_as_the_app(tmp_path: Path) -> None:
    """Drivers start with the app and stop with it."""
    BEAT.log.clear()
    space = Space(tmp_path, _wire)
    space.add("north", 8101)
    assert BEAT.log == ["start"]
    space.close()
    assert BEAT.log == ["start", "stop"]
