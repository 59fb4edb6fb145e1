"""Standings, duties, the decision log's transactions, the watch and webhooks, on both databases."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from connector.drivers.webhooks import EVENT, MAX_ATTEMPTS, SIGNATURE, SIGNATURE_TYPE, WebhookSender, pause
from connector.identity.errors import UnauthorizedError
from connector.identity.jws import verification_key, verify_detached
from connector.peers.client import PeerClient
from connector.policy_log import LoggedPolicyGate
from connector.storage.database import Database
from connector.storage.decisions import SqlDecisionLog
from connector.storage.duties import SqlDuties
from connector.storage.webhooks import SqlWebhooks, Webhook
from policies.duties import duties_of
from policies.errors import UnknownRecordError
from policies.gate import PolicyGate
from policies.parse import parse_policy
from tests.support.consents import START, Clock, ConsentRig, adult, answer, consent_rig, notice

AGREEMENT = "urn:uuid:agreement"
POLICY: dict[str, Any] = {
    "@id": AGREEMENT,
    "@type": "Agreement",
    "target": "urn:d",
    "assignee": "did:web:ai.example",
    "permission": [
        {
            "action": "use",
            "duty": [
                {
                    "action": "delete",
                    "constraint": [{"leftOperand": "elapsedTime", "operator": "lteq", "rightOperand": "P30D"}],
                }
            ],
        }
    ],
}
FACTS = {"assignee": "did:web:ai.example", "target": "urn:d"}


def test_an_overdue_duty_denies_until_it_is_fulfilled_and_an_end_is_for_good(database: Database) -> None:
    """The transfer scope denies with the duty's own words; fulfilment opens it again; an ended agreement stays ended."""
    clock, duties, log = Clock(), SqlDuties(database), SqlDecisionLog(database)
    gate = LoggedPolicyGate(
        gate=PolicyGate(now=clock),
        log=log,
        now=clock,
        standing=lambda agreement_id: duties.standing(agreement_id, clock()).refusals,
    )
    duties.note({AGREEMENT: duties_of(parse_policy(POLICY), AGREEMENT, FACTS["assignee"], START, START)}, START)
    assert gate.decide("transfer", POLICY, FACTS).allowed
    clock.advance(days=31)
    late = gate.decide("transfer", POLICY, FACTS)
    assert not late.allowed
    assert late.refusals[0].startswith("duty: not fulfilled in time: delete (elapsedTime lteq P30D)")
    (duty,) = duties.overdue(clock())
    duties.fulfil(duty.duty_id, {"log": "sha256:1"}, clock())
    assert gate.decide("transfer", POLICY, FACTS).allowed
    duties.cancel(AGREEMENT, "the school leaves the project", clock())
    duties.cancel(AGREEMENT, "another reason", clock())
    assert gate.decide("transfer", POLICY, FACTS).refusals[0] == (
        "agreement: it was ended: the school leaves the project"
    )
    with pytest.raises(UnknownRecordError):
        duties.fulfil("none", {"log": 1}, clock())
    lines = log.of_agreement(AGREEMENT)
    assert [line.verdict for line in lines] == ["deny", "permit", "deny", "permit"]
    assert (lines[1].assignee, lines[1].target, list(lines[1].duties)) == (FACTS["assignee"], "urn:d", ["delete"])


def test_a_decision_inside_a_transaction_is_there_with_it_or_not_at_all(database: Database) -> None:
    """A log line shares the fate of the transaction that its decision was taken in."""
    clock, log = Clock(), SqlDecisionLog(database)
    gate = LoggedPolicyGate(gate=PolicyGate(now=clock), log=log, now=clock)
    database.run("test", lambda _unit: gate.decide("negotiation", POLICY | {"@type": "Offer"}, FACTS))

    def broken(_unit: object) -> None:
        gate.decide("negotiation", POLICY | {"@type": "Offer"}, FACTS)
        raise ValueError("the message was refused")

    with pytest.raises(ValueError, match="refused"):
        database.run("test", broken)
    assert [(line.scope, line.policy_id) for line in log.newest()] == [("negotiation", AGREEMENT)]


def test_browsing_a_catalog_is_noted_once_an_hour(database: Database) -> None:
    """A thousand looks at one offer are one line, written later; an hour on it is noted again."""
    clock, log = Clock(), SqlDecisionLog(database)
    gate = LoggedPolicyGate(gate=PolicyGate(now=clock), log=log, now=clock)
    for _ in range(1000):
        gate.decide("catalog", POLICY | {"@type": "Offer"}, FACTS)
    assert log.newest() == []
    assert log.flush() == 1
    clock.advance(hours=2)
    gate.decide("catalog", POLICY | {"@type": "Offer"}, FACTS)
    assert log.flush() == 1
    assert {line.scope for line in log.newest()} == {"catalog"}


class Receiver(httpx2.BaseTransport):
    """A subscriber that keeps what it was sent and answers as told."""

    def __init__(self) -> None:
        self.got: list[httpx2.Request] = []
        self.status = 204

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Take a request."""
        request.read()
        self.got.append(request)
        return httpx2.Response(self.status)


@pytest.fixture
def told(database: Database) -> Iterator[tuple[ConsentRig, SqlWebhooks, WebhookSender, Receiver]]:
    """Give a consent service with one subscriber to withdrawals."""
    rig, webhooks, receiver = consent_rig(database), SqlWebhooks(database), Receiver()
    rig.service.publish_notice(notice())
    webhooks.add(Webhook(webhook_id="w1", url="http://lms.example/hook", events=("withdrawn",), created_at=START))
    client = PeerClient(issuer=None, permits=lambda _url: True, transport=receiver)  # type: ignore[arg-type] # nobody is named
    yield rig, webhooks, WebhookSender(webhooks, client, rig.signer, rig.clock), receiver
    client.close()


def test_a_subscriber_hears_what_it_asked_for_signed(
    told: tuple[ConsentRig, SqlWebhooks, WebhookSender, Receiver],
) -> None:
    """Only wanted events are sent, once accepted never again, and the signature is over the very bytes."""
    rig, webhooks, sender, receiver = told
    record = rig.service.grant(adult(), answer("e1"))
    rig.service.withdraw(adult(), record.record_id, "e2")
    assert (sender.send_due(), sender.send_due()) == (1, 0)
    (request,) = receiver.got
    key = verification_key(rig.signer.public_key)
    verify_detached(request.headers[SIGNATURE], request.content, key, SIGNATURE_TYPE)
    with pytest.raises(UnauthorizedError):
        verify_detached(request.headers[SIGNATURE], request.content + b" ", key, SIGNATURE_TYPE)
    body = json.loads(request.content)
    assert (body["type"], body["record_id"], request.headers[EVENT]) == ("consent.withdrawn", record.record_id, "e2")
    assert "ada" not in request.content.decode()
    assert [item.status for item in webhooks.deliveries("w1")] == ["sent"]


def test_a_subscriber_that_is_away_is_tried_again_and_then_given_up_in_sight(
    told: tuple[ConsentRig, SqlWebhooks, WebhookSender, Receiver],
) -> None:
    """Pauses double; after the last attempt the delivery lies where an operator sees it and can send it once more."""
    rig, webhooks, sender, receiver = told
    receiver.status = 503
    record = rig.service.grant(adult(), answer("e1"))
    rig.service.withdraw(adult(), record.record_id, "e2")
    for number in range(1, MAX_ATTEMPTS + 1):
        assert sender.send_due() == 0
        assert len(receiver.got) == number
        rig.clock.time += pause(number) - timedelta(seconds=1)
        sender.send_due()
        assert len(receiver.got) == number
        rig.clock.advance(seconds=1)
    (dead,) = webhooks.deliveries("w1", "dead")
    assert (dead.attempts, dead.last_status) == (MAX_ATTEMPTS, 503)
    receiver.status = 200
    assert webhooks.again("w1", rig.clock()) == 1
    assert sender.send_due() == 1
    webhooks.remove("w1")
    assert webhooks.deliveries("w1") == []
