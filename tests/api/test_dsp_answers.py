"""What the protocol's routes answer beside the message itself: pids in errors, entity tags, links, filters."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts import messages as m
from contracts.codec import encode
from tests.support.dataspace import Clock, Side, Wire, asking, dataset, open_side, settle

BASE = "/dsp/2025-1"


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side, Side]]:
    """Give a consumer, a provider with one dataset, and a third participant."""
    opened, wire, clock, found = [], Wire(), Clock(), []
    for name in ("consumer", "provider", "stranger"):
        url = f"sqlite:///{tmp_path / name}.sqlite"
        upgrade(url)
        opened.append(Database(url))
        found.append(open_side(wire, opened[-1], name, clock, page_size=10))
    found[1].service.catalog.publish(dataset())
    yield found[0], found[1], found[2]
    for database in opened:
        database.close()


def _post(to: Side, path: str, body: dict[str, Any], sender: Side, **headers: str) -> Any:
    given = {"Authorization": f"Bearer {sender.id}", **headers}
    return to.client.post(BASE + path, content=json.dumps(body).encode(), headers=given)


def _begun(consumer: Side, provider: Side) -> str:
    message = m.ContractRequestMessage(
        consumer_pid="urn:c:1", offer=asking(dataset()), callback_address=consumer.address + BASE
    )
    answer = _post(provider, "/negotiations/request", encode(message, message_id="urn:m:1"), consumer)
    return str(answer.json()["providerPid"])


def _pids(answer: Any) -> tuple[str, str]:
    said = answer.json()
    return said["consumerPid"], said["providerPid"]


def test_an_error_about_a_process_names_that_process(sides):
    """Illegal, malformed, of another process: both pids are the process's own, whatever the message said."""
    consumer, provider, _ = sides
    pid = _begun(consumer, provider)
    illegal = m.ContractNegotiationEventMessage(consumer_pid="urn:c:1", provider_pid=pid, event_type="FINALIZED")
    foreign = m.ContractNegotiationEventMessage(consumer_pid="urn:c:9", provider_pid=pid, event_type="ACCEPTED")
    for body in (
        encode(illegal, message_id="urn:m:2"),
        encode(foreign, message_id="urn:m:3"),
        {**encode(illegal, message_id="urn:m:4"), "eventType": "NEVER"},
        {"@type": "nonsense"},
    ):
        answer = _post(provider, f"/negotiations/{pid}/events", body, consumer)
        assert (answer.status_code, answer.json()["@type"]) == (400, "ContractNegotiationError")
        assert _pids(answer) == ("urn:c:1", pid)


def test_a_conflicting_first_message_is_told_which_process_it_conflicts_with(sides):
    """The pid was used before: the error names that negotiation."""
    consumer, provider, _ = sides
    pid = _begun(consumer, provider)
    message = m.ContractRequestMessage(
        consumer_pid="urn:c:1", offer=asking(dataset(), id="urn:other"), callback_address=consumer.address + BASE
    )
    answer = _post(provider, "/negotiations/request", encode(message, message_id="urn:m:2"), consumer)
    assert (answer.json()["code"], _pids(answer)) == ("conflict", ("urn:c:1", pid))


def test_who_is_not_the_counterparty_is_told_only_what_it_said(sides):
    """A stranger's error carries its own words, and no pid of the process that it guessed."""
    consumer, provider, stranger = sides
    pid = _begun(consumer, provider)
    message = m.ContractNegotiationTerminationMessage(consumer_pid="urn:guess", provider_pid=pid)
    answer = _post(provider, f"/negotiations/{pid}/termination", encode(message, message_id="urn:m:2"), stranger)
    assert (answer.status_code, _pids(answer)) == (404, ("urn:guess", pid))
    unnamed = _post(provider, f"/negotiations/{pid}/termination", {"@type": "x"}, stranger)
    assert "urn:c:1" not in unnamed.text


@pytest.mark.parametrize(
    ("path", "pids"),
    [
        ("/negotiations/urn:x/request", ("", "urn:x")),
        ("/negotiations/urn:x/agreement/verification", ("", "urn:x")),
        ("/negotiations/urn:x/offers", ("urn:x", "")),
        ("/negotiations/urn:x/agreement", ("urn:x", "")),
        ("/transfers/urn:x/start", ("", "urn:x")),
        ("/negotiations/request", ("", "")),
    ],
)
def test_an_id_in_the_path_is_never_said_twice(sides, path, pids):
    """Where nothing else is known, the path's id stands for one side only, and the other is left empty."""
    consumer, provider, _ = sides
    answer = _post(provider, path, {}, consumer)
    assert answer.status_code in (400, 404)
    assert _pids(answer) == pids


def test_an_error_about_a_transfer_names_that_transfer(sides):
    """A message that the table does not allow: both pids of the transfer."""
    consumer, provider, _ = sides
    started = consumer.service.negotiations.request(provider.counterparty, asking(dataset()))
    settle(consumer, provider)
    agreement_id = consumer.store.negotiation(started.pid).agreement.id
    pid = consumer.service.transfers.request(agreement_id, "FederatedTraining").pid
    settle(consumer, provider)
    peer_pid = consumer.store.transfer(pid).peer_pid
    message = m.TransferRequestMessage(
        consumer_pid=pid, agreement_id=agreement_id, format="F", callback_address=consumer.address
    )
    answer = _post(provider, f"/transfers/{peer_pid}/start", encode(message, message_id="urn:m:9"), consumer)
    assert (answer.json()["@type"], _pids(answer)) == ("TransferError", (pid, peer_pid))


def _catalog(to: Side, sender: Side, *filters: dict[str, Any], token: str = "", **headers: str) -> Any:
    body = encode(m.CatalogRequestMessage(filter=filters), message_id="urn:m:1")
    return _post(to, "/catalog/request" + token, body, sender, **headers)


def test_a_page_that_the_caller_has_is_not_sent_again(sides):
    """Same page: 304, with its links and no body; another page, another filter or a change: sent."""
    consumer, provider, stranger = sides
    provider.service.catalog.publish_all([dataset(f"d{number:02}") for number in range(15)])
    whole = _catalog(provider, consumer)
    tag = whole.headers["etag"]
    again = _catalog(provider, consumer, **{"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert (again.headers["etag"], again.headers["link"]) == (tag, whole.headers["link"])
    assert _catalog(provider, consumer).headers["etag"] == tag
    token = re.search(r"(\?page=[^>]*)>", whole.headers["link"])[1]
    assert _catalog(provider, consumer, token=token, **{"If-None-Match": tag}).status_code == 200
    assert _catalog(provider, consumer, {"keyword": "algebra"}, **{"If-None-Match": tag}).status_code == 200
    provider.service.catalog.publish(dataclasses.replace(dataset(), title="Another title"))
    assert _catalog(provider, consumer, **{"If-None-Match": tag}).status_code == 200
    assert _catalog(provider, stranger).status_code == 200


def test_filters_narrow_page_by_page_in_both_directions(sides):
    """Keyword, format and text hold together, and on every page that the links lead to."""
    consumer, provider, _ = sides
    provider.service.catalog.publish_all(
        [dataset(f"odd{number:02}" if number % 2 else f"even{number:02}") for number in range(50)]
    )
    provider.service.catalog.publish(dataset("odd99", formats=("HttpData-PULL",)))
    asked = ({"text": "ODD"}, {"format": "FederatedTraining"}, {"keyword": "knowledge tracing"})
    pages, token = [], ""
    while True:
        answer = _catalog(provider, consumer, *asked, token=token)
        pages.append([one["@id"] for one in answer.json()["dataset"]])
        links = dict(re.findall(r'(\?page=[^>]*)>; rel="(\w+)"', answer.headers.get("link", "")))
        found = {relation: token for token, relation in links.items()}
        if "next" not in found:
            break
        token = found["next"]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert all("odd" in name for page in pages for name in page)
    back = _catalog(provider, consumer, *asked, token=found["previous"])
    assert [one["@id"] for one in back.json()["dataset"]] == pages[1]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"keyword": "algebra"}, ["algebra"]),
        ({"keyword": "ALGEBRA"}, []),
        ({"text": "respons"}, ["algebra", "logic"]),
        ({"text": "100%"}, []),
        ({"format": "HttpData-PULL"}, ["logic"]),
        ({"https://w3id.org/orchard/text": "logic"}, ["logic"]),
        ({"@type": "Filter", "text": "logic"}, ["logic"]),
        ({}, ["algebra", "logic"]),
    ],
)
def test_each_filter_finds_what_it_says(sides, asked, names):
    """Keywords and formats are exact; text is looked for without regard to case, and no sign in it is special."""
    consumer, provider, _ = sides
    provider.service.catalog.publish(dataset("logic", formats=("HttpData-PULL",)))
    found = _catalog(provider, consumer, asked).json().get("dataset", [])
    assert [one["@id"].removeprefix("urn:dataset:") for one in found] == names


@pytest.mark.parametrize(
    "asked", [({"colour": "red"},), ({"text": 5},), ({"text": "a"}, {"text": "b"}), ({"text": ["a"]},), ("text",)]
)
def test_a_filter_that_is_not_understood_is_refused(sides, asked):
    """Unknown, of another type or given twice: 400 and a CatalogError, never ignored."""
    consumer, provider, _ = sides
    body = {**encode(m.CatalogRequestMessage(), message_id="urn:m"), "filter": list(asked)}
    answer = _post(provider, "/catalog/request", body, consumer)
    assert (answer.status_code, answer.json()["@type"]) == (400, "CatalogError")
