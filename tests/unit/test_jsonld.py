"""Foreign JSON-LD: what comes out is the protocol's compact form, and hostile input ends early."""

import subprocess
import sys
from typing import Any

import pytest

from policies.contexts import DSP_CONTEXT
from policies.errors import PolicyFormatError
from policies.jsonld import MAX_CONTEXTS, MAX_DEPTH, MAX_NODES, compact_to_dsp, is_compact
from policies.parse import parse_policy

DSP = "https://w3id.org/dspace/2025/1/"
ODRL = "http://www.w3.org/ns/odrl/2/"


def foreign() -> dict[str, Any]:
    """Return a contract request in somebody else's prefixes."""
    return {
        "@context": {"ex": DSP, "o": ODRL},
        "@type": "ex:ContractRequestMessage",
        "ex:consumerPid": {"@id": "urn:uuid:1"},
        "ex:callbackAddress": "http://127.0.0.1:1/cb",
        "ex:offer": {
            "@id": "urn:offer:1",
            "@type": "o:Offer",
            "o:target": {"@id": "urn:dataset:1"},
            "o:permission": {
                "o:action": {"@id": "o:use"},
                "o:constraint": {
                    "o:and": {
                        "@list": [
                            {
                                "o:leftOperand": {"@id": "o:purpose"},
                                "o:operator": {"@id": "o:isA"},
                                "o:rightOperand": {"@id": "https://w3id.org/dpv#AcademicResearch"},
                            },
                            {
                                "o:leftOperand": {"@id": "https://w3id.org/orchard/consent"},
                                "o:operator": {"@id": "o:eq"},
                                "o:rightOperand": "granted",
                            },
                        ]
                    }
                },
            },
        },
    }


def test_a_foreign_message_becomes_compact_and_its_policy_reads() -> None:
    """Other prefixes, same message; compacting what is compact changes nothing."""
    body = compact_to_dsp(foreign())
    assert body["@context"] == [DSP_CONTEXT]
    assert (body["@type"], body["consumerPid"]) == ("ContractRequestMessage", "urn:uuid:1")
    assert body["offer"]["target"] == "urn:dataset:1"
    assert body["offer"]["permission"][0]["action"] == "use"
    policy = parse_policy(body["offer"])
    assert len(policy.permissions[0].constraints) == 1
    assert compact_to_dsp(body) == body
    assert is_compact(body)
    assert not is_compact(foreign())
    assert not is_compact({"@context": DSP_CONTEXT})


@pytest.mark.parametrize(
    "message",
    [
        {"@type": "TransferRequestMessage", "agreementId": "urn:a", "format": "HttpData-PULL", "consumerPid": "p"},
        {"@type": "ContractNegotiation", "consumerPid": "p", "providerPid": "q", "state": "REQUESTED"},
        {"@type": "ContractNegotiationTerminationMessage", "consumerPid": "p", "reason": ["r"], "code": "1"},
        {"@type": "ContractNegotiationEventMessage", "consumerPid": "p", "eventType": "ACCEPTED"},
        {"@type": "CatalogRequestMessage", "filter": [{"@type": "Dataset"}]},
        {
            "@type": "TransferStartMessage",
            "consumerPid": "p",
            "dataAddress": {
                "@type": "DataAddress",
                "endpointType": "https://w3id.org/orchard/FederatedTraining",
                "endpoint": "http://127.0.0.1:1/learning",
                "endpointProperties": [{"@type": "EndpointProperty", "name": "authorization", "value": "x"}],
            },
        },
    ],
)
def test_compact_messages_come_through_unchanged(message: dict[str, Any]) -> None:
    """The bundled context knows the protocol's terms: expanding and compacting gives the same message."""
    body = {"@context": [DSP_CONTEXT], **message}
    assert compact_to_dsp(body) == body


def test_a_text_for_a_reference_and_a_list_for_a_set_are_read_as_what_was_meant() -> None:
    """A member that is written in another way than its term says still is that member."""
    body = compact_to_dsp(
        {
            "@context": {"ex": DSP},
            "@type": "ex:ContractNegotiationEventMessage",
            "ex:consumerPid": "urn:uuid:1",
            "ex:eventType": "ACCEPTED",
            "ex:reason": {"@list": ["a", "b"]},
        }
    )
    assert (body["consumerPid"], body["eventType"], body["reason"]) == ("urn:uuid:1", "ACCEPTED", ["a", "b"])


@pytest.mark.parametrize("prefix", ["http://www.w3.org/ns/odrl/2/", DSP, "http://purl.org/dc/terms/"])
def test_ids_are_never_shortened(prefix: str) -> None:
    """An id that begins like one of our prefixes comes out as it went in."""
    body = {"@context": {"ex": DSP}, "ex:consumerPid": {"@id": prefix + "x"}, "ex:offer": {"@id": prefix + "y/z"}}
    found = compact_to_dsp(body)
    assert (found["consumerPid"], found["offer"]) == (prefix + "x", prefix + "y/z")


def deep() -> dict[str, Any]:
    """Return a document one level too deep."""
    value: dict[str, Any] = {}
    for _level in range(MAX_DEPTH):
        value = {"http://x/p": value}
    return value


def scoped() -> dict[str, Any]:
    """Return a document whose type brings a long context to each of many things."""
    terms = {f"t{number}": f"http://x/{number}" for number in range(500)}
    context = {"A": {"@id": "http://x/A", "@context": terms}}
    return {"@context": context, "http://x/p": [{"@type": "A", "t1": 1} for _number in range(500)]}


def cycle() -> dict[str, Any]:
    """Return a document that holds itself."""
    value: dict[str, Any] = {}
    value["http://x/p"] = value
    return value


@pytest.mark.parametrize(
    "body",
    [
        {"@context": "https://example.org/context.jsonld", "a": 1},
        {"@context": ["file:///etc/passwd"], "a": 1},
        {"@context": {"@import": "https://example.org/context.jsonld"}, "a": 1},
        {"@context": 7, "http://x/p": 1},
        {},
        [],
        deep(),
        cycle(),
        {"http://x/p": [1] * (MAX_NODES + 1)},
        {"http://x/p": [{"@context": {}} for _number in range(MAX_CONTEXTS + 1)]},
        scoped(),
        {"http://x/p": "x" * 2_000_000},
        {"http://x/p": {1, 2}},
        {"@graph": [{"@id": "urn:a", "http://x/p": 1}, {"@id": "urn:b", "http://x/p": 1}]},
    ],
)
def test_hostile_documents_are_refused(body: Any) -> None:
    """A context that would be fetched, and anything too large, deep or odd, gives one kind of error."""
    with pytest.raises(PolicyFormatError):
        compact_to_dsp(body)


def test_a_slow_document_is_given_up() -> None:
    """The time limit holds for the caller."""
    with pytest.raises(PolicyFormatError, match="longer than"):
        compact_to_dsp({"@context": {"ex": DSP}, "ex:filter": [{"ex:a": n} for n in range(1500)]}, seconds=0.001)


def test_the_compact_path_never_loads_the_json_ld_library() -> None:
    """Importing this module, and asking whether a body is compact, costs no pyld."""
    code = "import sys, policies.jsonld as j; j.is_compact({}); sys.exit('pyld' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
