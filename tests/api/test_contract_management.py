"""Management of datasets, negotiations, agreements and transfers, as an operator's program meets it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts.behaviour import ManualBehaviour
from tests.support.dataspace import MARKETING, Clock, Side, Wire, dataset, open_side, rules, settle

OPERATOR = {"Authorization": "Bearer operator"}


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """Give a consumer and a provider whose operator decides by hand."""
    opened, wire, clock = [], Wire(), Clock()
    for name in ("consumer", "provider"):
        url = f"sqlite:///{tmp_path / name}.sqlite"
        upgrade(url)
        opened.append(Database(url))
    yield (
        open_side(wire, opened[0], "consumer", clock),
        open_side(wire, opened[1], "provider", clock, behaviour=ManualBehaviour()),
    )
    for database in opened:
        database.close()


def _post(side: Side, path: str, body=None):
    return side.client.post("/management" + path, json=body, headers=OPERATOR)


def _get(side: Side, path: str):
    return side.client.get("/management" + path, headers=OPERATOR)


def _published(provider: Side):
    body = {
        "id": "urn:dataset:algebra",
        "title": "Responses in algebra",
        "keywords": ["algebra"],
        "offer": {"@id": "urn:offer:algebra", "@type": "Offer", **rules()},
        "properties": {"viewDigest": "ab" * 32},
    }
    return _post(provider, "/datasets", body)


def _started(consumer: Side, provider: Side, **more):
    body = {"participant_id": provider.id, "dataset_id": "urn:dataset:algebra", **more}
    return _post(consumer, "/negotiations", body)


def test_from_dataset_to_completed_transfer_by_hand(sides):
    """Publish, crawl, negotiate, approve, transfer, suspend, resume, complete; history and delivery are shown."""
    consumer, provider = sides
    assert _published(provider).status_code == 201
    assert _get(provider, "/datasets").json()["datasets"][0]["@id"] == "urn:dataset:algebra"
    crawled = _post(
        consumer, "/catalog/request", {"participant_id": provider.id, "filter": {"keyword": "algebra"}}
    ).json()
    assert [one["@id"] for one in crawled["datasets"]] == ["urn:dataset:algebra"]
    started = _started(consumer, provider)
    assert (started.status_code, started.json()["state"], started.json()["waiting_for"]) == (201, "REQUESTED", "peer")
    settle(consumer, provider)
    (waiting,) = _get(provider, f"/negotiations?state=REQUESTED&counterparty={consumer.id}").json()["negotiations"]
    assert waiting["waiting_for"] == "us"
    assert _post(provider, f"/negotiations/{waiting['pid']}/approve").json()["state"] == "AGREED"
    settle(consumer, provider)
    shown = _get(consumer, f"/negotiations/{started.json()['pid']}").json()
    assert (shown["state"], shown["delivery"]["status"], shown["delivery"]["last_status"]) == ("FINALIZED", "sent", 200)
    assert [event["state"] for event in shown["events"]] == ["REQUESTED", "AGREED", "VERIFIED", "FINALIZED"]
    agreement = _get(consumer, f"/agreements/{shown['agreement_id']}").json()
    assert (agreement["signed"], agreement["role"]) == (True, "consumer")
    transfer = _post(consumer, "/transfers", {"agreement_id": agreement["id"]}).json()
    settle(consumer, provider)
    assert _get(consumer, f"/transfers/{transfer['pid']}").json()["endpoint"] == "http://provider.example/learning"
    for command, state in (("suspend", "SUSPENDED"), ("resume", "STARTED")):
        assert _post(
            consumer, f"/transfers/{transfer['pid']}/{command}", {"reasons": []} if command == "suspend" else None
        )
        settle(consumer, provider)
        assert _get(provider, f"/transfers?agreement={agreement['id']}").json()["transfers"][0]["state"] == state
    assert _post(consumer, f"/transfers/{transfer['pid']}/complete").json()["state"] == "COMPLETED"
    settle(consumer, provider)
    assert "token-for" not in _get(consumer, f"/transfers/{transfer['pid']}").text


def test_the_policy_binds_the_operator_too(sides):
    """An operator cannot agree to a purpose that the published policy denies, but can refuse or counter it."""
    consumer, provider = sides
    _published(provider)
    pid = _started(consumer, provider, offer={"@id": "urn:offer:algebra", **rules(MARKETING)}).json()["pid"]
    settle(consumer, provider)
    (waiting,) = _get(provider, "/negotiations").json()["negotiations"]
    denied = _post(provider, f"/negotiations/{waiting['pid']}/approve")
    assert (denied.status_code, denied.json()["code"]) == (409, "policy-denied")
    assert "purpose" in denied.json()["detail"]
    offer = {"@id": "urn:offer:algebra", **rules()}
    assert _post(provider, f"/negotiations/{waiting['pid']}/counter", {"offer": offer}).json()["state"] == "OFFERED"
    settle(consumer, provider)
    assert _get(consumer, f"/negotiations/{pid}").json()["state"] == "OFFERED"
    assert _post(consumer, f"/negotiations/{pid}/terminate", {"reasons": ["no use for it"]}).status_code == 200
    settle(consumer, provider)
    assert "no use for it" in _get(provider, f"/negotiations/{waiting['pid']}").json()["reasons"][0]


def test_an_undelivered_message_shows_its_last_attempt_and_the_next(sides):
    """Nobody is left to wonder why a negotiation stays in REQUESTED."""
    consumer, provider = sides
    _published(provider)
    started = _started(consumer, provider, offer=dataset().offer.document()).json()
    consumer.service.delivery.calls.wire.fate = lambda *_: "drop"
    settle(consumer, provider)
    delivery = _get(consumer, f"/negotiations/{started['pid']}").json()["delivery"]
    assert (delivery["status"], delivery["attempts"]) == ("queued", 1)
    assert delivery["last_answer"] == "no such host"
    assert delivery["next_attempt_at"] > delivery["last_attempt_at"]


def test_events_are_streamed_until_the_end(sides):
    """A program need not poll: the stream gives every event and ends with the negotiation."""
    consumer, provider = sides
    _published(provider)
    pid = _started(consumer, provider).json()["pid"]
    settle(consumer, provider)
    _post(consumer, f"/negotiations/{pid}/terminate", {"reasons": ["enough"]})
    text = _get(consumer, f"/negotiations/{pid}/events/stream").text
    assert text.count("event: ") == 2
    assert '"state": "TERMINATED"' in text


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/negotiations/urn:none", None, 404),
        ("GET", "/transfers/urn:none", None, 404),
        ("GET", "/agreements/urn:none", None, 404),
        ("GET", "/datasets/urn:none", None, 404),
        ("DELETE", "/datasets/urn:none", None, 404),
        ("POST", "/negotiations/urn:none/approve", None, 404),
        ("POST", "/transfers", {"agreement_id": "urn:none"}, 404),
        ("POST", "/negotiations", {"participant_id": "did:web:nobody", "dataset_id": "x"}, 404),
        ("POST", "/datasets", {"id": "x", "title": "t", "offer": {"@id": "o"}}, 422),
        ("POST", "/datasets", {"id": "x"}, 422),
        ("GET", "/negotiations?cursor=nonsense", None, 422),
    ],
)
def test_wrong_requests_get_problem_details(sides, method, path, body, status):
    """Each says what is wrong with a status and a stable code."""
    answer = sides[0].client.request(method, "/management" + path, json=body, headers=OPERATOR)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"]


def test_management_is_for_operators(sides):
    """A peer's token is none."""
    consumer, provider = sides
    answer = provider.client.get("/management/negotiations", headers={"Authorization": f"Bearer {consumer.id}"})
    assert answer.status_code == 401
