"""Agreements whose policy has run out, and actions that a policy does not permit: refused at every use, on both sides."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts import messages as m
from contracts.actions import actions, actions_of
from contracts.behaviour import AutomaticBehaviour
from contracts.codec import Envelope
from contracts.errors import PolicyDeniedError
from contracts.messages import Offer
from contracts.processes import Caller, Dataset
from contracts.transfers import TransferState
from policies.evaluate import TRAIN, USE
from policies.model import ODRL
from tests.support.dataspace import START, Clock, Side, Wire, asking, dataset, open_side, rules, settle

HOUR = timedelta(hours=1)
UNTIL = {
    "leftOperand": "dateTime",
    "operator": "lteq",
    "rightOperand": (START + HOUR).isoformat(),
}


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """Give a consumer and a provider, each with a clock of its own, and a dataset that may be used for an hour."""
    opened, wire, found = [], Wire(), []
    for name in ("consumer", "provider"):
        url = f"sqlite:///{tmp_path / name}.sqlite"
        upgrade(url)
        opened.append(Database(url))
        found.append(open_side(wire, opened[-1], name, Clock(), behaviour=AutomaticBehaviour()))
    found[1].service.catalog.publish(_dataset(rules(constraints=[UNTIL])))
    yield found[0], found[1]
    for database in opened:
        database.close()


def _dataset(terms: dict[str, Any], **more: Any) -> Dataset:
    published = dataset(**more)
    return dataclasses.replace(published, offer=dataclasses.replace(published.offer, rules=terms))


def _agreed(consumer: Side, provider: Side) -> str:
    published = provider.store.dataset("urn:dataset:algebra")
    pid = consumer.service.negotiations.request(provider.counterparty, asking(published)).pid
    settle(consumer, provider)
    found = consumer.store.negotiation(pid)
    assert found.agreement is not None, found.reasons
    return found.agreement.id


def _started(consumer: Side, provider: Side) -> tuple[str, str]:
    pid = consumer.service.transfers.request(_agreed(consumer, provider), "FederatedTraining").pid
    settle(consumer, provider)
    found = consumer.store.transfer(pid)
    assert found.state is TransferState.STARTED
    return pid, found.peer_pid


def test_the_consumer_does_not_ask_for_what_is_over(sides):
    """As consumer, a transfer under an agreement whose time is over is refused here, with the reason."""
    consumer, provider = sides
    agreement_id = _agreed(consumer, provider)
    consumer.clock.advance(7200)
    with pytest.raises(PolicyDeniedError, match="dateTime"):
        consumer.service.transfers.request(agreement_id, "FederatedTraining")
    answer = consumer.client.post(
        "/management/transfers", json={"agreement_id": agreement_id}, headers={"Authorization": "Bearer operator"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "policy-denied")
    assert "dateTime" in answer.json()["detail"]


def test_the_provider_does_not_start_what_is_over(sides):
    """As provider, whatever the consumer's clock says, the transfer ends with the reason, and both sides know it."""
    consumer, provider = sides
    agreement_id = _agreed(consumer, provider)
    provider.clock.advance(7200)
    pid = consumer.service.transfers.request(agreement_id, "FederatedTraining").pid
    settle(consumer, provider)
    found = consumer.store.transfer(pid)
    assert found.state is TransferState.TERMINATED
    assert "dateTime" in found.reasons[0]
    assert "dateTime" in provider.store.transfer(found.peer_pid).reasons[0]
    assert (pid, "STARTED") not in consumer.heard


def test_a_start_that_comes_too_late_is_not_used(sides):
    """As consumer, a start under an agreement that is over by then ends the transfer; learning is never told to begin."""
    consumer, provider = sides
    agreement_id = _agreed(consumer, provider)
    pid = consumer.service.transfers.request(agreement_id, "FederatedTraining").pid
    while consumer.do_one():
        pass
    consumer.clock.advance(7200)
    settle(consumer, provider)
    found = consumer.store.transfer(pid)
    assert found.state is TransferState.TERMINATED
    assert "dateTime" in found.reasons[0]
    assert (pid, "STARTED") not in consumer.heard
    assert "dateTime" in provider.store.transfer(found.peer_pid).reasons[0]


@pytest.mark.parametrize("role", ["consumer", "provider"])
def test_a_paused_transfer_is_not_resumed_when_it_is_over(sides, role):
    """Neither side's operator can go on with what the agreement does not allow any more."""
    consumer, provider = sides
    pids = dict(zip(("consumer", "provider"), _started(consumer, provider), strict=True))
    side = {"consumer": consumer, "provider": provider}[role]
    side.service.transfers.suspend(pids[role])
    settle(consumer, provider)
    side.clock.advance(7200)
    with pytest.raises(PolicyDeniedError, match="dateTime"):
        side.service.transfers.resume(pids[role])
    assert side.store.transfer(pids[role]).state is TransferState.SUSPENDED


def test_a_consumer_that_resumes_too_late_is_refused_and_ends(sides):
    """The provider answers 400 with the reason and stays as it was; the consumer learns it and both end."""
    consumer, provider = sides
    pid, peer_pid = _started(consumer, provider)
    consumer.service.transfers.suspend(pid)
    settle(consumer, provider)
    provider.clock.advance(7200)
    message = m.TransferStartMessage(consumer_pid=pid, provider_pid=peer_pid)
    with pytest.raises(PolicyDeniedError):
        provider.service.transfers.receive(
            Caller(participant_id=consumer.id), peer_pid, Envelope(message=message, message_id="urn:m", digest="d")
        )
    assert provider.store.transfer(peer_pid).state is TransferState.SUSPENDED
    consumer.service.transfers.resume(pid)
    settle(consumer, provider)
    assert consumer.store.transfer(pid).state is TransferState.TERMINATED
    assert "policy-denied" in consumer.store.transfer(pid).reasons[0]
    assert provider.store.transfer(peer_pid).state is TransferState.TERMINATED


class Yes:
    """A gate that allows everything."""

    allowed, refusals = True, ()

    def decide(self, *_asked: object, action: str) -> "Yes":
        """Say yes."""
        return self


def _permitting(*names: str) -> dict[str, Any]:
    return {"permission": [{"action": name} for name in names]}


@pytest.mark.parametrize(
    ("action", "form", "ends"),
    [
        ("use", "FederatedTraining", "STARTED"),
        ("https://w3id.org/orchard/train", "FederatedTraining", "STARTED"),
        ("https://w3id.org/orchard/train", "HttpData-PULL", "STARTED"),
        ("odrl:read", "HttpData-PULL", "STARTED"),
        ("read", "FederatedTraining", "TERMINATED"),
        ("aggregate", "FederatedTraining", "TERMINATED"),
    ],
)
def test_an_agreement_is_used_for_the_action_that_it_permits(sides, action, form, ends):
    """Offers for a narrower action are shown and agreed to; a transfer starts if its format is for that action."""
    consumer, provider = sides
    provider.service.catalog.publish(_dataset(_permitting(action), formats=("FederatedTraining", "HttpData-PULL")))
    assert consumer.service.peer_catalogs.find(provider.peer, "urn:dataset:algebra").offers
    agreement_id = _agreed(consumer, provider)
    if ends == "TERMINATED":
        with pytest.raises(PolicyDeniedError):
            consumer.service.transfers.request(agreement_id, form)
        # A consumer that does not look is told by the provider.
        trusting = dataclasses.replace(consumer.service.transfers, gate=Yes())
        pid = trusting.request(agreement_id, form).pid
    else:
        pid = consumer.service.transfers.request(agreement_id, form).pid
    settle(consumer, provider)
    assert consumer.store.transfer(pid).state == ends


def test_an_action_that_nobody_knows_is_not_agreed_to(sides):
    """An offer for an action outside what this connector knows is hidden and refused."""
    consumer, provider = sides
    provider.service.catalog.publish(_dataset(_permitting("https://elsewhere.example/resell")))
    pid = consumer.service.negotiations.request(
        provider.counterparty,
        Offer(
            id="urn:offer:algebra",
            target="urn:dataset:algebra",
            rules=_permitting("https://elsewhere.example/resell"),
        ),
    ).pid
    settle(consumer, provider)
    assert consumer.store.negotiation(pid).state == "TERMINATED"


def test_actions_are_named_in_full_and_once():
    """Prefixes and namespaces make no difference; without a permission the action is use."""
    terms = {"permission": [{"action": "use"}, {"action": "odrl:use"}, {"action": TRAIN}, {"action": ODRL + "read"}]}
    assert actions(terms) == (USE, TRAIN, ODRL + "read")
    assert actions({"prohibition": [{"action": "use"}]}) == (USE,)
    assert actions_of("FederatedTraining", terms) == (TRAIN,)
    assert actions_of("HttpData-PULL", terms) == (USE, TRAIN, ODRL + "read")
