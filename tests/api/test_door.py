"""The short way and the framework's own: whichever an operator's request takes, the answer is the same."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.dataspace import dataset
from tests.support.participants import Participant, Space

PATH = "/management/negotiations"
JSON = {"content-type": "application/json"}
FRESH = {"pid", "created_at", "updated_at"}


@pytest.fixture
def participants(data_space: Space) -> tuple[Participant, Participant]:
    """Return a consumer that knows its provider."""
    consumer, provider = (data_space.add(name, port) for name, port in (("c", 18161), ("p", 18162)))
    address = provider.settings.server.public_url
    consumer.client.post("/management/peers", json={"address": address}, headers=consumer.operator).raise_for_status()
    return consumer, provider


def _the_long_way(participant: Participant) -> TestClient:
    """Return a client of the same app behind a prefix: then its door serves nothing."""
    address = participant.settings.server.public_url
    return TestClient(participant.app, base_url=address, root_path="/behind", raise_server_exceptions=False)


def _known(text: bytes) -> Any:
    found = json.loads(text)
    return {name: value for name, value in found.items() if name not in FRESH} if isinstance(found, dict) else found


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (201, {}, JSON),
        (201, {}, {"content-type": "Application/JSON; charset=utf-8"}),
        (201, {"role": "provider", "dataset_id": "urn:dataset:algebra"}, JSON),
        (401, {}, {**JSON, "authorization": "Bearer nobody"}),
        (401, {}, {**JSON, "authorization": ""}),
        (404, {"participant_id": "did:web:nobody.example"}, JSON),
        (404, {"role": "provider", "offer": None}, JSON),
        (422, {"more": 1}, JSON),
        (422, {"dataset_id": None}, JSON),
        (422, {"offer": {"@id": 7}}, JSON),
        (422, b"", JSON),
        (422, b"{", JSON),
        (400, b"[" * 5000, JSON),
        (400, b"\xff", JSON),
        (400, b'{"participant_id": "a\\u0000b"}', JSON),
        (413, b" " * (8 * 1024 * 1024 + 1), JSON),
        (422, {}, {"content-type": "text/plain"}),
        (422, {}, {}),
    ],
)
def test_both_ways_answer_alike(
    participants: tuple[Participant, Participant], status: int, body: Any, headers: dict[str, str]
) -> None:
    """A negotiation is begun, or refused with the same words, whether or not the door has served the request."""
    consumer, provider = participants
    sent = body
    if isinstance(body, dict):
        offer = dataset().offer.document()
        sent = json.dumps(
            {"participant_id": provider.id, "dataset_id": offer["target"], "offer": offer, **body}
        ).encode()
    given = {"authorization": consumer.operator["authorization"], **headers}
    short = consumer.client.post(PATH, content=sent, headers=given)
    long = _the_long_way(consumer).post(PATH, content=sent, headers=given)
    assert short.status_code == long.status_code == status
    assert _known(short.content) == _known(long.content)
    assert {**short.headers, "content-length": ""} == {**long.headers, "content-length": ""}
    begun = consumer.client.get(PATH, headers=consumer.operator).json()["negotiations"]
    assert len(begun) == (2 if status == 201 else 0)


def test_a_body_in_pieces_reaches_the_app_whole(participants: tuple[Participant, Participant]) -> None:
    """What the door has read and will not serve is read once more by the app, from its first byte."""
    consumer, _ = participants
    pieces = (b'{"participant_id": ', b'"did:web:nobody.example", ', b'"dataset_id": "x", "more": 1}')
    answer = consumer.client.post(PATH, content=iter(pieces), headers={**JSON, **consumer.operator})
    assert answer.status_code == 422
    assert [error["where"] for error in answer.json()["errors"]] == ["body.more"]
