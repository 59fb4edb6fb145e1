"""Nothing stands still without a word: each process says what was tried, what the peer answered, and what comes next."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts.behaviour import ManualBehaviour
from contracts.delivery import RetryRule
from contracts.messages import Offer
from contracts.ports import PeerAnswer
from tests.support.dataspace import Clock, Line, Side, Wire, dataset, open_side, rules, settle

OPERATOR = {"Authorization": "Bearer operator"}
REQUEST = "ContractRequestMessage"


@dataclasses.dataclass
class Answering(Line):
    """A line at whose other end the test answers."""

    answer: PeerAnswer | None = None

    def call(self, method: str, url: str, **more: Any) -> PeerAnswer:
        """Answer messages as the test says; questions go to the peer."""
        if self.answer is not None and method == "POST":
            return self.answer
        return super().call(method, url, **more)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """Give a consumer with little patience, and a provider whose operator decides by hand."""
    opened, wire, clock = [], Wire(), Clock()
    for name in ("consumer", "provider"):
        url = f"sqlite:///{tmp_path / name}.sqlite"
        upgrade(url)
        opened.append(Database(url))
    retry = RetryRule(first_seconds=1.0, attempts=4, first_attempts=3)
    consumer = open_side(wire, opened[0], "consumer", clock, retry=retry)
    provider = open_side(wire, opened[1], "provider", clock, behaviour=ManualBehaviour())
    provider.service.catalog.publish(dataset())
    yield consumer, provider
    for database in opened:
        database.close()


def _get(side: Side, path: str) -> Any:
    answer = side.client.get("/management" + path, headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _post(side: Side, path: str, body: object = None) -> Any:
    return side.client.post("/management" + path, json=body, headers=OPERATOR)


def _asked(consumer: Side, provider: Side) -> str:
    offer = {"@id": "urn:offer:algebra", **rules()}
    body = {"participant_id": provider.id, "dataset_id": "urn:dataset:algebra", "offer": offer}
    return _post(consumer, "/negotiations", body).json()["pid"]


def test_a_peer_that_is_down_is_named_with_the_next_try(sides):
    """While it is down: attempts, the last one, why it failed, when the next is; in the list and in the process."""
    consumer, provider = sides
    consumer.service.delivery.calls.wire.fate = lambda *_: "drop"
    pid = _asked(consumer, provider)
    settle(consumer, provider)
    shown = _get(consumer, f"/negotiations/{pid}")
    (listed,) = _get(consumer, "/negotiations?state=REQUESTED")["negotiations"]
    for process in (shown, listed):
        delivery = process["delivery"]
        assert (process["state"], process["waiting_for"]) == ("REQUESTED", "peer")
        assert (delivery["step"], delivery["status"], delivery["attempts"]) == (REQUEST, "queued", 1)
        assert (delivery["last_status"], delivery["last_code"], delivery["given_up"]) == (None, None, False)
        assert delivery["last_answer"] == "no such host"
        assert delivery["next_attempt_at"] > delivery["last_attempt_at"]


def test_a_peer_that_stays_down_ends_the_process_with_a_dead_letter(sides):
    """After the last attempt nothing is left open: the process has ended and says why, and the letter is kept."""
    consumer, provider = sides
    consumer.service.delivery.calls.wire.fate = lambda *_: "drop"
    pid = _asked(consumer, provider)
    settle(consumer, provider, seconds=60.0)
    shown = _get(consumer, f"/negotiations/{pid}")
    assert (shown["state"], shown["waiting_for"]) == ("TERMINATED", None)
    assert "did not answer" in shown["reasons"][0]
    (letter,) = shown["dead_letters"]
    assert (letter["step"], letter["attempts"], letter["given_up"], letter["next_attempt_at"]) == (
        REQUEST,
        4,
        True,
        None,
    )
    assert _get(consumer, "/negotiations")["negotiations"][0]["dead_letters"] == [letter]
    assert shown["events"][-1]["reasons"] == shown["reasons"]


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (400, {"code": "malformed", "reason": ["offer: no"]}, "malformed", "offer: no"),
        (400, {"code": 400, "reason": [{"@value": "bad", "@language": "en"}]}, "400", "bad"),
        (422, "nonsense", None, "nonsense"),
        (403, {"code": "forbidden", "reason": "go away"}, "forbidden", "go away"),
        (503, {"dspace:code": "busy", "@context": {"dspace": "https://w3id.org/dspace/2025/1/"}}, None, "dspace:code"),
    ],
)
def test_a_peer_that_refuses_is_quoted(sides, status, body, code, words):
    """Status, code and reason of the answer are shown, whether it is final or may come right."""
    consumer, provider = sides
    raw = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
    line = consumer.service.delivery.calls
    answering = Answering(wire=line.wire, sender=line.sender, answer=PeerAnswer(status=status, body=raw))
    object.__setattr__(consumer.service, "delivery", dataclasses.replace(consumer.service.delivery, calls=answering))
    pid = _asked(consumer, provider)
    settle(consumer, provider)
    shown = _get(consumer, f"/negotiations/{pid}")
    delivery = shown["delivery"]
    assert (delivery["last_status"], delivery["last_code"]) == (status, code)
    assert words in delivery["last_answer"]
    final = status in (400, 422)
    assert (shown["state"], delivery["given_up"]) == ("TERMINATED" if final else "REQUESTED", final)
    if final:
        assert words in shown["reasons"][0]
        assert len(shown["dead_letters"]) == 1
    else:
        assert delivery["next_attempt_at"] is not None


def test_a_message_that_waits_for_the_peers_id_says_so(sides):
    """Nothing was sent, because the peer has not told its own id of the process: that is what is shown."""
    consumer, provider = sides
    line = consumer.service.delivery.calls
    mute = Answering(wire=line.wire, sender=line.sender, answer=PeerAnswer(status=200, body=b""))
    object.__setattr__(consumer.service, "delivery", dataclasses.replace(consumer.service.delivery, calls=mute))
    pid = _asked(consumer, provider)
    settle(consumer, provider)
    assert _post(consumer, f"/negotiations/{pid}/terminate", {"reasons": ["enough"]}).status_code == 200
    settle(consumer, provider)
    delivery = _get(consumer, f"/negotiations/{pid}")["delivery"]
    assert delivery["status"] == "queued"
    assert "nothing was sent" in delivery["last_answer"]


def test_questions_are_paged_in_both_directions_over_http(sides):
    """State, counterparty and dataset narrow; cursors lead on and back; a state that does not exist is refused."""
    consumer, provider = sides
    for number in range(5):
        provider.service.catalog.publish(dataset(f"d{number}"))
        for side in (consumer, provider):
            offer = Offer(id=f"urn:offer:{number}", target=f"urn:dataset:d{number}", rules=rules())
            other = provider if side is consumer else consumer
            side.service.negotiations.request(other.counterparty, offer)
    first = _get(consumer, "/negotiations?limit=2&state=REQUESTED")
    second = _get(consumer, f"/negotiations?limit=2&state=REQUESTED&cursor={first['next']}")
    back = _get(consumer, f"/negotiations?limit=2&state=REQUESTED&cursor={second['previous']}")
    assert back["negotiations"] == first["negotiations"]
    assert first["previous"] is None
    assert back["next"] == first["next"]
    (one,) = _get(consumer, "/negotiations?dataset=urn:dataset:d3")["negotiations"]
    assert one["dataset_id"] == "urn:dataset:d3"
    assert len(_get(consumer, f"/negotiations?counterparty={provider.id}")["negotiations"]) == 5
    assert _get(consumer, "/negotiations?counterparty=did:web:nobody")["negotiations"] == []
    for path in ("/negotiations?state=STARTED", "/transfers?state=AGREED", "/agreements?cursor=x"):
        assert consumer.client.get("/management" + path, headers=OPERATOR).status_code == 422


def test_a_stream_goes_on_where_it_broke_off(sides):
    """Last-Event-ID skips what was heard already, for negotiations and transfers; the stream ends with the process."""
    consumer, provider = sides
    pid = _asked(consumer, provider)
    settle(consumer, provider)
    (waiting,) = _get(provider, "/negotiations")["negotiations"]
    assert _post(provider, f"/negotiations/{waiting['pid']}/approve").status_code == 200
    settle(consumer, provider)
    agreement_id = _get(consumer, f"/negotiations/{pid}")["agreement_id"]
    transfer = _post(consumer, "/transfers", {"agreement_id": agreement_id}).json()["pid"]
    settle(consumer, provider)
    assert _post(consumer, f"/transfers/{transfer}/complete").json()["state"] == "COMPLETED"
    for path, count in ((f"/negotiations/{pid}", 4), (f"/transfers/{transfer}", 3)):
        events = _get(consumer, path)["events"]
        assert len(events) == count
        stream = f"/management{path}/events/stream"
        whole = consumer.client.get(stream, headers=OPERATOR)
        assert whole.headers["content-type"].startswith("text/event-stream")
        assert whole.text.count("\nevent: ") == count
        rest = consumer.client.get(stream, headers={**OPERATOR, "Last-Event-ID": str(events[-2]["seq"])})
        assert rest.text.count("event: ") == 1
        assert f"id: {events[-1]['seq']}\n" in rest.text
    for path in ("/negotiations/urn:none", "/transfers/urn:none"):
        assert consumer.client.get(f"/management{path}/events/stream", headers=OPERATOR).status_code == 404


def test_commands_that_a_state_does_not_allow_are_refused(sides):
    """Counter, approve, suspend and resume out of turn: 409 with the reason, and nothing is written."""
    consumer, provider = sides
    pid = _asked(consumer, provider)
    settle(consumer, provider)
    before = consumer.store.events(pid)
    offer = {"@id": "urn:offer:algebra", **rules()}
    for command, body in (("approve", None), ("counter", {"offer": offer})):
        answer = _post(consumer, f"/negotiations/{pid}/{command}", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "illegal-command"), command
    assert consumer.store.events(pid) == before
    (waiting,) = _get(provider, "/negotiations")["negotiations"]
    _post(provider, f"/negotiations/{waiting['pid']}/approve")
    settle(consumer, provider)
    agreement_id = _get(consumer, f"/negotiations/{pid}")["agreement_id"]
    transfer = _post(consumer, "/transfers", {"agreement_id": agreement_id}).json()["pid"]
    for command, body in (("suspend", {"reasons": ["wait"]}), ("complete", None), ("resume", None)):
        answer = _post(consumer, f"/transfers/{transfer}/{command}", body)
        assert (answer.status_code, answer.json()["code"]) == (409, "illegal-command"), command
    assert _get(consumer, f"/transfers/{transfer}")["state"] == "REQUESTED"
