"""The protocol's routes: status rules, typed errors, paging, entitlement."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts import messages as m
from contracts.codec import encode
from contracts.messages import Offer
from contracts.ports import Peer, Query
from contracts.processes import Kind
from tests.support.dataspace import MARKETING, Clock, Side, Wire, asking, dataset, open_side, settle

BASE = "/dsp/2025-1"


@pytest.fixture
def wire() -> Wire:
    """Return a wire that delivers everything."""
    return Wire()


@pytest.fixture
def sides(tmp_path: Path, wire: Wire) -> Iterator[tuple[Side, Side]]:
    """Give a consumer and a provider with one dataset."""
    opened = []
    for name in ("consumer", "provider"):
        url = f"sqlite:///{tmp_path / name}.sqlite"
        upgrade(url)
        opened.append(Database(url))
    clock = Clock()
    consumer, provider = (
        open_side(wire, opened[0], "consumer", clock),
        open_side(wire, opened[1], "provider", clock, page_size=10),
    )
    provider.service.catalog.publish(dataset())
    yield consumer, provider
    for database in opened:
        database.close()


def _post(to: Side, path: str, message, sender: Side | None, message_id: str = "urn:m:1"):
    body = message if isinstance(message, bytes) else json.dumps(encode(message, message_id=message_id)).encode()
    headers = {"Authorization": f"Bearer {sender.id}"} if sender else {}
    return to.client.post(BASE + path, content=body, headers=headers)


def _get(to: Side, path: str, sender: Side | None):
    return to.client.get(BASE + path, headers={"Authorization": f"Bearer {sender.id}"} if sender else {})


def _first(consumer: Side, pid: str = "urn:c:1", **changes) -> m.ContractRequestMessage:
    return m.ContractRequestMessage(
        consumer_pid=pid, offer=asking(dataset(), **changes), callback_address=consumer.address + "/dsp/2025-1/"
    )


def test_version_metadata_needs_no_token(sides):
    """Anyone may read which versions are spoken, and where."""
    answer = sides[1].client.get("/.well-known/dspace-version")
    (entry,) = answer.json()["protocolVersions"]
    assert (answer.status_code, entry["version"], entry["path"], entry["binding"]) == (200, "2025-1", BASE, "HTTPS")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/catalog/datasets/urn:dataset:algebra", "CatalogError"),
        ("/negotiations/urn:n:1", "ContractNegotiationError"),
        ("/transfers/urn:t:1", "TransferError"),
    ],
)
def test_who_is_not_known_gets_401_and_a_typed_error(sides, path, kind):
    """Without a token nothing is served."""
    answer = _get(sides[1], path, None)
    assert answer.status_code == 401
    assert answer.json()["@type"] == kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/catalog/datasets/urn:dataset:none", "CatalogError"),
        ("/negotiations/urn:n:none", "ContractNegotiationError"),
        ("/transfers/urn:t:none", "TransferError"),
    ],
)
def test_unknown_ids_are_404_with_a_typed_error(sides, path, kind):
    """The error says what it is about and gives a code and a reason."""
    consumer, provider = sides
    answer = _get(provider, path, consumer)
    assert answer.status_code == 404
    assert answer.json()["@type"] == kind
    assert answer.json()["code"] == "not-found"
    assert answer.json()["reason"]


def test_the_first_request_is_201_and_its_repeat_gets_the_same_answer(sides):
    """Same pid and bytes: one negotiation, the same answer; same pid, other bytes: conflict, nothing written."""
    consumer, provider = sides
    first = _post(provider, "/negotiations/request", _first(consumer), consumer)
    again = _post(provider, "/negotiations/request", _first(consumer), consumer)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert first.json()["state"] == "REQUESTED"
    assert first.json()["consumerPid"] == "urn:c:1"
    other = _post(provider, "/negotiations/request", _first(consumer, id="urn:offer:other"), consumer, "urn:m:2")
    assert (other.status_code, other.json()["code"]) == (400, "conflict")
    assert (
        provider.client.get(
            f"{BASE}/negotiations/{first.json()['providerPid']}", headers={"Authorization": f"Bearer {consumer.id}"}
        ).json()["state"]
        == "AGREED"
    )


def test_a_repeated_later_message_gets_the_same_answer_and_other_bytes_conflict(sides):
    """The state after the first time is answered again, even when the process has moved on."""
    consumer, provider = sides
    pid = _post(provider, "/negotiations/request", _first(consumer), consumer).json()["providerPid"]
    verification = m.ContractAgreementVerificationMessage(consumer_pid="urn:c:1", provider_pid=pid)
    path = f"/negotiations/{pid}/agreement/verification"
    answers = [_post(provider, path, verification, consumer, "urn:m:9") for _ in range(2)]
    assert [(a.status_code, a.json()["state"]) for a in answers] == [(200, "VERIFIED"), (200, "VERIFIED")]
    assert _get(provider, f"/negotiations/{pid}", consumer).json()["state"] == "FINALIZED"
    other = m.ContractNegotiationTerminationMessage(consumer_pid="urn:c:1", provider_pid=pid)
    conflict = _post(provider, f"/negotiations/{pid}/termination", other, consumer, "urn:m:9")
    assert (conflict.status_code, conflict.json()["code"]) == (400, "conflict")


def test_a_peer_that_is_not_the_counterparty_sees_nothing(sides):
    """A stranger's GET and messages are 404, like an id that does not exist."""
    consumer, provider = sides
    pid = _post(provider, "/negotiations/request", _first(consumer), consumer).json()["providerPid"]
    # The provider itself is a known participant that is not the counterparty.
    read = _get(provider, f"/negotiations/{pid}", provider)
    unknown = _get(provider, "/negotiations/urn:n:none", provider)
    assert read.status_code == unknown.status_code == 404
    assert read.json()["reason"] == unknown.json()["reason"]
    message = m.ContractNegotiationTerminationMessage(consumer_pid="urn:c:1", provider_pid=pid)
    assert _post(provider, f"/negotiations/{pid}/termination", message, provider).status_code == 404
    assert _get(provider, f"/negotiations/{pid}", consumer).json()["state"] == "AGREED"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "events",
            m.ContractNegotiationEventMessage(consumer_pid="urn:c:1", provider_pid="PID", event_type="ACCEPTED"),
        ),
        (
            "events",
            m.ContractNegotiationEventMessage(consumer_pid="urn:c:1", provider_pid="PID", event_type="FINALIZED"),
        ),
        ("request", m.ContractRequestMessage(consumer_pid="urn:c:1", provider_pid="PID", offer=asking(dataset()))),
        ("termination", m.ContractNegotiationTerminationMessage(consumer_pid="urn:c:other", provider_pid="PID")),
        ("events", m.TransferCompletionMessage(consumer_pid="urn:c:1", provider_pid="PID")),
    ],
    ids=["accept", "finalize", "counter", "foreign-pid", "wrong-type"],
)
def test_what_the_table_does_not_allow_is_400_and_changes_nothing(sides, path, message):
    """An illegal, foreign or mistyped message leaves state and history as they were."""
    consumer, provider = sides
    pid = _post(provider, "/negotiations/request", _first(consumer), consumer).json()["providerPid"]
    before = provider.store.events(pid)
    answer = _post(
        provider, f"/negotiations/{pid}/{path}", dataclasses.replace(message, provider_pid=pid), consumer, "urn:m:5"
    )
    assert (answer.status_code, answer.json()["@type"]) == (400, "ContractNegotiationError")
    assert provider.store.events(pid) == before


def test_a_callback_elsewhere_is_refused(sides):
    """A peer cannot make us call another host."""
    consumer, provider = sides
    message = m.ContractRequestMessage(
        consumer_pid="urn:c:1", offer=asking(dataset()), callback_address="https://victim.example/dsp"
    )
    answer = _post(provider, "/negotiations/request", message, consumer)
    assert (answer.status_code, answer.json()["code"]) == (400, "callback-refused")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"@type":"CatalogRequestMessage"}', b"[" * 50_000])
def test_bad_bodies_are_400_with_a_typed_error(sides, body):
    """Whatever is sent, the answer is the protocol's."""
    consumer, provider = sides
    for path, kind in (
        ("/catalog/request", "CatalogError"),
        ("/negotiations/request", "ContractNegotiationError"),
        ("/transfers/request", "TransferError"),
    ):
        answer = _post(provider, path, body, consumer)
        assert (answer.status_code, answer.json()["@type"]) == (400, kind)


def test_the_catalog_is_paged_by_links_both_ways(sides):
    """Following next shows every dataset once; following previous comes back the same way."""
    consumer, provider = sides
    provider.service.catalog.publish_all([dataset(f"d{n:02}") for n in range(24)])
    forward, path = [], "/catalog/request"
    while path:
        answer = _post(provider, path, m.CatalogRequestMessage(), consumer)
        forward.append([one["@id"] for one in answer.json()["dataset"]])
        links = answer.headers.get("link", "")
        path = _link(links, "next")
    assert [len(page) for page in forward] == [10, 10, 5]
    assert len({one for page in forward for one in page}) == 25
    backward, path = [forward[-1]], _link(links, "previous")
    while path:
        answer = _post(provider, path, m.CatalogRequestMessage(), consumer)
        backward.append([one["@id"] for one in answer.json()["dataset"]])
        path = _link(answer.headers.get("link", ""), "previous")
    assert backward[::-1] == forward


def test_a_peers_catalog_is_crawled_by_its_links(sides):
    """The reader follows next until there is none."""
    consumer, provider = sides
    provider.service.catalog.publish_all([dataset(f"d{n:02}") for n in range(24)])
    peer = Peer(participant_id=provider.id, dsp_url=provider.address + BASE)
    seen, cursor = [], None
    while True:
        page = consumer.service.peer_catalogs.request(peer, cursor=cursor)
        seen += [one.id for one in page.datasets]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(set(seen)) == len(seen) == 25


@pytest.mark.parametrize("token", ["x", "bm9uc2Vuc2U", "eyJhZnRlciI6IDF9", "W10"])
def test_a_page_token_that_is_not_ours_is_400(sides, token):
    """A made-up token is refused, not guessed at."""
    consumer, provider = sides
    answer = _post(provider, f"/catalog/request?page={token}", m.CatalogRequestMessage(), consumer)
    assert (answer.status_code, answer.json()["code"]) == (400, "cursor-unknown")


def _link(header: str, relation: str) -> str | None:
    found = re.search(rf'<[^>]*(/catalog/request[^>]*)>; rel="{relation}"', header)
    return found.group(1) if found else None


def test_a_filter_narrows_and_an_unknown_one_is_400(sides):
    """Filters are never ignored."""
    consumer, provider = sides
    provider.service.catalog.publish(dataset("geometry"))
    good = _post(provider, "/catalog/request", m.CatalogRequestMessage(filter=({"keyword": "geometry"},)), consumer)
    assert [one["@id"] for one in good.json()["dataset"]] == ["urn:dataset:geometry"]
    bad = _post(provider, "/catalog/request", m.CatalogRequestMessage(filter=({"colour": "red"},)), consumer)
    assert (bad.status_code, bad.json()["@type"], bad.json()["code"]) == (400, "CatalogError", "filter-unsupported")
    assert _post(provider, "/catalog/request", m.CatalogRequestMessage(filter=({},)), consumer).status_code == 200


def test_an_empty_catalog_has_no_dataset_member(sides):
    """The schema wants at least one item in the array, or no array."""
    consumer, provider = sides
    answer = _post(consumer, "/catalog/request", m.CatalogRequestMessage(), provider)
    assert "dataset" not in answer.json()
    assert answer.json()["participantId"] == consumer.id


def test_a_dataset_shows_its_offer_without_target_and_orchards_own_terms(sides):
    """What a catalog says is enough to ask for it."""
    consumer, provider = sides
    found = _get(provider, "/catalog/datasets/urn:dataset:algebra", consumer).json()
    (offer,) = found["hasPolicy"]
    assert "target" not in offer
    assert offer["@type"] == "Offer"
    assert found["distribution"][0]["format"] == "FederatedTraining"
    assert found["https://w3id.org/orchard/viewDigest"] == "ab" * 32


def test_a_dataset_for_others_is_hidden(sides):
    """A policy that names another assignee keeps a dataset out of the catalog, by list and by id."""
    consumer, provider = sides
    rules = {
        "permission": [
            {
                "action": "use",
                "constraint": [{"leftOperand": "recipient", "operator": "eq", "rightOperand": "did:web:x"}],
            }
        ]
    }
    hidden = dataclasses.replace(dataset("hidden"), offer=Offer(id="urn:o", rules=rules))
    provider.service.catalog.publish(hidden)
    listed = _post(provider, "/catalog/request", m.CatalogRequestMessage(), consumer).json()
    assert [one["@id"] for one in listed["dataset"]] == ["urn:dataset:algebra"]
    assert _get(provider, "/catalog/datasets/urn:dataset:hidden", consumer).status_code == 404


def test_a_transfer_without_an_agreement_is_404_and_a_foreign_format_400(sides):
    """Nothing starts without an agreement between the two, in a format the dataset has."""
    consumer, provider = sides
    ask = m.TransferRequestMessage(
        consumer_pid="urn:t:1", agreement_id="urn:a:none", format="FederatedTraining", callback_address=consumer.address
    )
    assert _post(provider, "/transfers/request", ask, consumer).status_code == 404
    started = consumer.service.negotiations.request(provider.counterparty, asking(dataset()))
    settle(consumer, provider)
    agreement_id = consumer.store.negotiation(started.pid).agreement.id
    wrong = dataclasses.replace(ask, agreement_id=agreement_id, format="HttpData-PULL")
    assert _post(provider, "/transfers/request", wrong, consumer).status_code == 400
    good = dataclasses.replace(ask, agreement_id=agreement_id)
    answers = [_post(provider, "/transfers/request", good, consumer) for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert len(provider.store.processes(Kind.TRANSFER, Query()).items) == 1


def test_errors_never_repeat_what_was_sent(sides):
    """A reason names fields, not values."""
    consumer, provider = sides
    secret = "hunter2-" + MARKETING
    body = encode(_first(consumer), message_id="urn:m:1") | {"callbackAddress": secret}
    answer = _post(provider, "/negotiations/request", json.dumps(body).encode(), consumer)
    assert answer.status_code == 400
    assert "hunter2" not in answer.text
