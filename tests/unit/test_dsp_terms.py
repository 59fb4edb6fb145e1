"""Offers, agreements and callbacks: what differs is named, what is signed verifies, what lies elsewhere is refused."""

import dataclasses

import pytest

from contracts import agreement, offers
from contracts.callbacks import require_callback
from contracts.errors import CallbackRefusedError, MalformedMessageError
from contracts.processes import Caller, Counterparty, Negotiation
from contracts.reconciliation import Verdict, judge
from contracts.states import NegotiationState, Role
from policies.gate import PolicyGate
from policies.signing import new_signer
from tests.support.dataspace import MARKETING, RESEARCH, START, asking, dataset, rules

GATE = PolicyGate(now=lambda: START)
FACTS = {"assignee": "did:web:c"}


def _negotiation(**changes) -> Negotiation:
    offer = asking(dataset())
    values = {
        "pid": "urn:n:1",
        "role": Role.PROVIDER,
        "state": NegotiationState.REQUESTED,
        "counterparty": Counterparty(participant_id="did:web:c", address="https://c.example"),
        "dataset_id": offer.target,
        "offer": offer,
        "offered_by": Role.CONSUMER,
        "created_at": START,
        "updated_at": START,
    }
    return Negotiation(**{**values, **changes})


def test_the_published_offer_is_acceptable_however_it_is_written():
    """Prefixes, {"@id"} objects and order make no difference."""
    asked = {
        "permission": [
            {
                "action": "odrl:use",
                "constraint": [
                    {"leftOperand": "odrl:purpose", "operator": "odrl:eq", "rightOperand": [{"@id": RESEARCH}]}
                ],
            }
        ]
    }
    offer = asking(dataset(), rules=asked)
    assert offers.same_terms(asked, rules())
    assert offers.assess_request(offer, dataset(), GATE, FACTS).acceptable


def test_a_purpose_outside_the_offer_is_named_once_with_both_values():
    """The reason names the constraint, what was asked and what is allowed."""
    found = offers.assess_request(asking(dataset(), rules=rules(MARKETING)), dataset(), GATE, FACTS)
    assert found.reasons == (f"purpose: asked {MARKETING}, the offer allows only {RESEARCH}",)


def test_a_narrower_purpose_that_the_policy_allows_may_be_stated():
    """Where the offer allows kinds of research, a consumer may state its own kind."""
    broad = {
        "permission": [
            {
                "action": "use",
                "constraint": [
                    {
                        "leftOperand": "purpose",
                        "operator": "isA",
                        "rightOperand": "https://w3id.org/dpv#ResearchAndDevelopment",
                    }
                ],
            }
        ]
    }
    published = dataclasses.replace(dataset(), offer=dataclasses.replace(dataset().offer, rules=broad))
    assert offers.assess_request(asking(published, rules=rules()), published, GATE, FACTS).acceptable
    assert not offers.assess_request(asking(published, rules=rules(MARKETING)), published, GATE, FACTS).acceptable


def test_rules_that_are_only_rearranged_are_not_the_same():
    """Two permissions are not one with both constraints."""
    one = {"permission": [{"action": "use", "constraint": [_c("a", "1"), _c("b", "2")]}]}
    two = {
        "permission": [{"action": "use", "constraint": [_c("a", "1")]}, {"action": "use", "constraint": [_c("b", "2")]}]
    }
    assert not offers.same_terms(one, two)
    assert offers.changes(two, one) == ("rules: the request arranges the published rules in another way",)


def _c(name: str, value: str) -> dict[str, str]:
    return {"leftOperand": name, "operator": "eq", "rightOperand": value}


def test_a_signed_agreement_verifies_and_any_change_breaks_it():
    """The signature covers parties, target, rules and time; the digest names them."""
    signer = new_signer("did:web:p#key")
    made = agreement.conclude(_negotiation(), id="urn:a:1", provider="did:web:p", signer=signer, now=START)
    assert agreement.is_signed(made, signer.public_key)
    for changes in ({"target": "urn:x"}, {"assignee": "did:web:x"}, {"rules": rules(MARKETING)}, {"timestamp": "x"}):
        changed = dataclasses.replace(made, **changes)
        assert not agreement.is_signed(changed, signer.public_key)
        assert agreement.agreement_digest(changed) != agreement.agreement_digest(made)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": "urn:x"}, "target"),
        ({"assigner": "did:web:x"}, "assigner"),
        ({"assignee": "did:web:x"}, "assignee"),
        ({"rules": rules(MARKETING)}, "purpose"),
        ({"timestamp": "2030-01-01T00:00:00Z"}, "signature"),
    ],
)
def test_the_consumer_refuses_an_agreement_that_is_not_what_it_asked_for(changes, named):
    """Each difference is named."""
    signer = new_signer("did:web:p#key")
    made = agreement.conclude(_negotiation(), id="urn:a:1", provider="did:web:p", signer=signer, now=START)
    ours = _negotiation(
        role=Role.CONSUMER, counterparty=Counterparty(participant_id="did:web:p", address="https://p.example")
    )
    good = agreement.assess_agreement(
        dataclasses.replace(ours, agreement=made), consumer="did:web:c", public_key=signer.public_key
    )
    assert good.acceptable, good
    bad = dataclasses.replace(ours, agreement=dataclasses.replace(made, **changes))
    found = agreement.assess_agreement(bad, consumer="did:web:c", public_key=signer.public_key)
    assert not found.acceptable
    assert any(named in reason for reason in found.reasons)


CALLER = Caller(participant_id="did:web:c", address="https://c.example:8443/orchard")


@pytest.mark.parametrize("callback", ["https://c.example:8443/orchard", "https://c.example:8443/orchard/dsp/2025-1/"])
def test_callbacks_under_the_callers_address_are_taken_without_trailing_slash(callback):
    """A trailing slash is tolerated."""
    assert require_callback(CALLER, callback) == callback.rstrip("/")


@pytest.mark.parametrize(
    "callback",
    [
        "https://evil.example/orchard",
        "https://c.example/orchard",
        "http://c.example:8443/orchard",
        "https://c.example:8443/orchardevil",
        "https://c.example:8443/orchard/../admin",
        "https://c.example.evil.example:8443/orchard",
    ],
)
def test_callbacks_elsewhere_are_refused(callback):
    """Another host, port, scheme or folder is not the caller's."""
    with pytest.raises(CallbackRefusedError):
        require_callback(CALLER, callback)


@pytest.mark.parametrize(
    "callback", ["nonsense", "ftp://c.example", "https://u@c.example:8443/orchard", "https://c:x/"]
)
def test_callbacks_that_are_no_urls_are_malformed(callback):
    """Only absolute http(s) URLs without user, query or fragment are read."""
    with pytest.raises(MalformedMessageError):
        require_callback(CALLER, callback)


def test_a_verified_consumer_follows_the_provider_that_finalized_before_its_termination_came():
    """Last messages that cross leave both sides in the same end: the provider's."""
    signer = new_signer("did:web:p#key")
    made = agreement.conclude(_negotiation(), id="urn:a:1", provider="did:web:p", signer=signer, now=START)
    ended = _negotiation(role=Role.CONSUMER, state=NegotiationState.TERMINATED, agreement=made, verified=True)
    step = "ContractNegotiationTerminationMessage"
    assert judge(ended, "FINALIZED", step=step, refused=True, tired=False) is Verdict.ADOPT
    unverified = dataclasses.replace(ended, verified=False)
    assert judge(unverified, "FINALIZED", step=step, refused=True, tired=False) is Verdict.GIVE_UP


@pytest.mark.parametrize(
    ("state", "peer_state", "refused", "tired", "verdict"),
    [
        ("AGREED", "AGREED", True, False, Verdict.ARRIVED),
        ("TERMINATED", "TERMINATED", True, False, Verdict.ARRIVED),
        ("TERMINATED", "FINALIZED", True, False, Verdict.GIVE_UP),
        ("TERMINATED", "AGREED", True, False, Verdict.WAIT),
        ("TERMINATED", "AGREED", True, True, Verdict.GIVE_UP),
        ("AGREED", "TERMINATED", True, False, Verdict.ADOPT),
        ("AGREED", "FINALIZED", True, False, Verdict.TERMINATE),
        ("AGREED", "VERIFIED", True, False, Verdict.WAIT),
        ("AGREED", "REQUESTED", False, False, Verdict.WAIT),
        ("AGREED", "REQUESTED", True, False, Verdict.TERMINATE),
        ("AGREED", "REQUESTED", False, True, Verdict.TERMINATE),
        ("AGREED", "OFFERED", True, False, Verdict.TERMINATE),
        ("AGREED", None, True, False, Verdict.TERMINATE),
    ],
)
def test_what_follows_when_a_peer_will_not_take_a_message(state, peer_state, refused, tired, verdict):
    """Agreeing states go on, the peer's end is taken over, and what cannot be settled is ended."""
    ours = _negotiation(state=NegotiationState(state))
    found = judge(ours, peer_state, step="ContractAgreementMessage", refused=refused, tired=tired)
    assert found is verdict
