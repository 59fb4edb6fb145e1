"""The codec: every message shape there and back, and bad bodies refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import messages as m
from contracts.codec import dumps, encode, parse
from contracts.errors import MalformedMessageError
from contracts.messages import Agreement, DataAddress, Offer
from contracts.shapes import CONTEXT

RULES: dict[str, Any] = {
    "permission": [
        {
            "action": "use",
            "constraint": [
                {"leftOperand": "purpose", "operator": "eq", "rightOperand": "https://w3id.org/dpv#AcademicResearch"},
                {"or": [{"leftOperand": "count", "operator": "lteq", "rightOperand": 5}]},
            ],
        }
    ],
    "prohibition": [
        {"action": "use", "constraint": [{"leftOperand": "purpose", "operator": "eq", "rightOperand": "x"}]}
    ],
    "obligation": [{"action": "delete"}],
}
OFFER = Offer(id="urn:o:1", target="urn:d:1", rules=RULES, assigner="did:web:p", assignee="did:web:c")
BOTH = {"consumer_pid": "urn:c:1", "provider_pid": "urn:p:1"}
ADDRESS = DataAddress(endpoint_type="t", endpoint="https://p.example/x", properties=(("authorization", "s"),))
MESSAGES = [
    m.CatalogRequestMessage(),
    m.CatalogRequestMessage(filter=({"keyword": "x"},)),
    m.ContractRequestMessage(consumer_pid="urn:c:1", offer=OFFER, callback_address="https://c.example/dsp"),
    m.ContractRequestMessage(**BOTH, offer=OFFER),
    m.ContractOfferMessage(provider_pid="urn:p:1", offer=OFFER, callback_address="https://p.example/dsp"),
    m.ContractOfferMessage(**BOTH, offer=OFFER),
    m.ContractAgreementMessage(
        **BOTH,
        agreement=Agreement(
            id="urn:a:1",
            target="urn:d:1",
            assigner="did:web:p",
            assignee="did:web:c",
            rules=RULES,
            timestamp="2026-01-01T00:00:00Z",
            signature={"alg": "Ed25519", "kid": "k", "value": "v"},
        ),
    ),
    m.ContractAgreementVerificationMessage(**BOTH),
    m.ContractNegotiationEventMessage(**BOTH, event_type="ACCEPTED"),
    m.ContractNegotiationEventMessage(**BOTH, event_type="FINALIZED"),
    m.ContractNegotiationTerminationMessage(**BOTH),
    m.ContractNegotiationTerminationMessage(**BOTH, code="c", reason=("because",)),
    m.TransferRequestMessage(
        consumer_pid="urn:c:1",
        agreement_id="urn:a:1",
        format="F",
        callback_address="https://c.example",
        data_address=ADDRESS,
    ),
    m.TransferRequestMessage(
        consumer_pid="urn:c:1", agreement_id="urn:a:1", format="F", callback_address="https://c.example"
    ),
    m.TransferStartMessage(**BOTH),
    m.TransferStartMessage(**BOTH, data_address=ADDRESS),
    m.TransferSuspensionMessage(**BOTH, code="c", reason=("later",)),
    m.TransferCompletionMessage(**BOTH),
    m.TransferTerminationMessage(**BOTH, reason=("a", "b")),
]


def _raw(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.parametrize("message", MESSAGES, ids=[f"{n}-{type(one).__name__}" for n, one in enumerate(MESSAGES)])
def test_every_message_comes_back_as_it_went(message):
    """Encoding and parsing give the same value, its id and a digest of its bytes."""
    raw = dumps(encode(message, message_id="urn:m:1")).encode()
    envelope = parse(raw, frozenset({type(message)}))
    assert envelope.message == message
    assert envelope.message_id == "urn:m:1"
    assert len(envelope.digest) == 64


def test_further_contexts_and_extra_terms_are_no_matter():
    """The DSP context's terms are protected: other contexts beside it cannot change them."""
    body = encode(m.TransferCompletionMessage(**BOTH), message_id="urn:m:1") | {"extra": 1}
    body["@context"] = ["https://w3id.org/edc/v2", CONTEXT]
    assert parse(_raw(body), frozenset({m.TransferCompletionMessage})).message == m.TransferCompletionMessage(**BOTH)


@pytest.mark.parametrize("context", [CONTEXT, {"@vocab": "x"}, [CONTEXT, {"a": "b"}], ["https://other.example"], None])
def test_a_foreign_context_goes_through_the_hook_or_is_refused(context):
    """Without the hook a body that is not plain is refused; with it, the hook's result is read."""
    plain = encode(m.TransferCompletionMessage(**BOTH), message_id="urn:m:1")
    accepts = frozenset({m.TransferCompletionMessage})
    with pytest.raises(MalformedMessageError):
        parse(_raw({**plain, "@context": context}), accepts)
    assert (
        parse(_raw({**plain, "@context": context}), accepts, lambda _: plain).message.step
        == "TransferCompletionMessage"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"consumerPid": None},
        {"consumerPid": ""},
        {"consumerPid": 5},
        {"consumerPid": "x" * 301},
        {"consumerPid": "a\x00b"},
        {"consumerPid": "\ud800"},
        {"callbackAddress": None},
        {"providerPid": "urn:p:1"},
        {"offer": None},
        {"offer": []},
        {"offer": {"@id": "x", "target": "t"}},
        {"offer": {"@id": "x", "permission": [{"action": "use"}]}},
        {"offer": {"@id": "x", "target": "t", "permission": ["use"]}},
        {"offer": {"@id": "x", "target": "t", "permission": [{"constraint": []}]}},
        {"offer": {"@id": "x", "target": "t", "permission": [{"action": "use", "target": "t"}]}},
        {
            "offer": {
                "@id": "x",
                "target": "t",
                "permission": [{"action": "use", "constraint": [{"or": [], "and": []}]}],
            }
        },
        {"offer": {"@id": "x", "target": "t", "permission": [{"action": "use", "constraint": [{"leftOperand": "p"}]}]}},
        {"offer": {"@id": "x", "target": "t", "permission": [{"action": "use"}] * 300}},
        {"@type": "ContractOfferMessage"},
        {"@type": ["ContractRequestMessage", "Other"]},
        {"deep": 1 << 60},
    ],
    ids=repr,
)
def test_bad_bodies_are_refused(change):
    """Each broken field refuses the message; nothing else is raised."""
    message = m.ContractRequestMessage(consumer_pid="urn:c:1", offer=OFFER, callback_address="https://c.example")
    body = {**encode(message, message_id="urn:m:1"), **change}
    with pytest.raises(MalformedMessageError):
        parse(_raw(body), frozenset({m.ContractRequestMessage}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"[]",
        b"5",
        b'{"a": NaN}',
        b"\xff\xfe",
        b'{"a":' * 10_000,
        b"[" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"x":' + b"9" * 5000 + b"}",
        b" " * (1 << 20) + b"{}",
    ],
    ids=[str(n) for n in range(11)],
)
def test_hostile_bytes_are_refused(raw):
    """Whatever the bytes, the refusal is typed."""
    with pytest.raises(MalformedMessageError):
        parse(raw, frozenset({m.CatalogRequestMessage}))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(
    kind=st.sampled_from(sorted({type(message) for message in MESSAGES}, key=lambda kind: kind.__name__)),
    fields=st.dictionaries(
        st.sampled_from(["consumerPid", "providerPid", "offer", "agreement", "filter", "reason", "dataAddress", "@id"]),
        _JSON,
    ),
)
def test_parsing_never_raises_anything_else(kind, fields):
    """Any JSON under any field is read or refused."""
    body = {"@context": [CONTEXT], "@type": kind.__name__, **fields}
    try:
        parse(_raw(body), frozenset({kind}))
    except MalformedMessageError:
        return
