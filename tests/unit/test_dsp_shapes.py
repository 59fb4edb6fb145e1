"""Every shape of the protocol in every form of JSON-LD: the same value comes out, and the compact form again."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pyld import jsonld

from contracts import messages as m
from contracts import peer_catalogs, replies
from contracts.catalog import CatalogService
from contracts.codec import encode, parse
from contracts.errors import MalformedMessageError
from contracts.processes import Kind
from contracts.replies import Refusal, Standing
from contracts.service import OwnSide
from contracts.shapes import CONTEXT
from policies.contexts import DSP
from policies.gate import PolicyGate
from policies.jsonld import MAX_BYTES, MAX_NODES, _load, compact_to_dsp
from tests.support.dataspace import START, dataset
from tests.unit.test_dsp_codec import ADDRESS, BOTH, MESSAGES

OPTIONS = {"base": None, "documentLoader": _load, "processingMode": "json-ld-1.1"}
PREFIXED = {
    "ds": DSP,
    "policy": "http://www.w3.org/ns/odrl/2/",
    "cat": "http://www.w3.org/ns/dcat#",
    "d": "http://purl.org/dc/terms/",
    "orch": "https://w3id.org/orchard/",
}
RENAMED = {
    "@vocab": DSP,
    "policy": "http://www.w3.org/ns/odrl/2/",
    "verbraucher": {"@id": DSP + "consumerPid", "@type": "@id"},
    "anbieter": {"@id": DSP + "providerPid", "@type": "@id"},
    "Ablehnung": DSP + "ContractNegotiationError",
}
IDS = [f"{number}-{type(one).__name__}" for number, one in enumerate(MESSAGES)]


def compacted(body: dict[str, Any]) -> object:
    """Return the body as it is."""
    return body


def expanded(body: dict[str, Any]) -> object:
    """Return the body in expanded form: an array, full names, no context."""
    return jsonld.expand(body, OPTIONS)


def prefixed(body: dict[str, Any]) -> object:
    """Return the body under a context with prefixes of somebody else's choosing."""
    return jsonld.compact(jsonld.expand(body, OPTIONS), PREFIXED, OPTIONS)


def renamed(body: dict[str, Any]) -> object:
    """Return the body under a context with words of somebody else's choosing."""
    return jsonld.compact(jsonld.expand(body, OPTIONS), RENAMED, OPTIONS)


FORMS = (compacted, expanded, prefixed, renamed)
Form = Callable[[dict[str, Any]], object]


def raw(value: object) -> bytes:
    """Return a value as a peer sends it."""
    return json.dumps(value).encode()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
def test_every_message_says_the_same_in_every_form(message: Any, form: Form) -> None:
    """Compacted, expanded or in another's names: one value, one id, and back to the same compact body."""
    body = encode(message, message_id="urn:uuid:1")
    envelope = parse(raw(form(body)), frozenset({type(message)}), compact_to_dsp)
    assert envelope.message == message
    assert envelope.message_id == "urn:uuid:1"
    assert encode(envelope.message, message_id="urn:uuid:1") == body


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("state", ["REQUESTED", "FINALIZED", "TERMINATED"])
@pytest.mark.parametrize("kind", list(Kind))
def test_a_process_says_the_same_in_every_form(kind: Kind, state: str, form: Form) -> None:
    """ContractNegotiation and TransferProcess are read back as they were."""
    value = Standing(kind=kind, state=state, **BOTH)
    found = replies.read_standing(raw(form(value.document())), compact_to_dsp)
    assert found == value
    assert found.document() == value.document()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("kind", [None, *Kind])
def test_an_error_says_the_same_in_every_form(kind: Kind | None, form: Form) -> None:
    """The three typed errors are read back as they were."""
    pids = BOTH if kind else {}
    value = Refusal(kind=kind, code="policy-denied", reasons=("purpose: no", "role: no"), **pids)
    found = replies.read_refusal(raw(form(value.document())), compact_to_dsp)
    assert found == value
    assert found.document() == value.document()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_catalog_and_a_dataset_say_the_same_in_every_form(form: Form) -> None:
    """Offers, formats and what datasets are called are read from a catalog in any form."""
    service = CatalogService(
        store=None,  # type: ignore[arg-type] # describing reads nothing
        gate=PolicyGate(now=lambda: START),
        participant=OwnSide(id="did:web:p", dsp_url="https://p.example/dsp"),
        clock=lambda: START,
    )
    datasets = [service.describe(dataset(name)) for name in ("algebra", "geometry")]
    catalog = {"@context": [CONTEXT], "@id": "urn:c", "@type": "Catalog", "dataset": datasets}
    wanted = peer_catalogs.read_datasets(catalog)
    assert [one.id for one in wanted] == ["urn:dataset:algebra", "urn:dataset:geometry"]
    found = peer_catalogs.read_datasets(replies.read(raw(form(catalog)), compact_to_dsp))
    assert found == wanted
    assert [one.document["title"] for one in found] == [one["title"] for one in datasets]
    alone = replies.read(raw(form({"@context": [CONTEXT], **datasets[0]})), compact_to_dsp)
    assert peer_catalogs.read_dataset(alone) == wanted[0]


def _must_not(_body: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("a compact body was expanded")


@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
@pytest.mark.parametrize("context", [[CONTEXT], ["https://w3id.org/edc/v2", CONTEXT], [CONTEXT, "https://x.example"]])
def test_an_array_of_strings_is_never_expanded(message: Any, context: list[str]) -> None:
    """A context that is an array of strings with the protocol's own goes straight to the reader."""
    body = encode(message, message_id="urn:uuid:1") | {"@context": context}
    assert parse(raw(body), frozenset({type(message)}), _must_not).message == message


@pytest.mark.parametrize("message", MESSAGES, ids=IDS)
@pytest.mark.parametrize("form", FORMS[1:], ids=lambda form: form.__name__)
def test_any_other_body_is_expanded(message: Any, form: Form) -> None:
    """A body in another form goes through the hook, once."""
    seen: list[dict[str, Any]] = []

    def expand(body: dict[str, Any]) -> dict[str, Any]:
        seen.append(body)
        return compact_to_dsp(body)

    parse(raw(form(encode(message, message_id="urn:uuid:1"))), frozenset({type(message)}), expand)
    assert len(seen) == 1


def test_the_fast_path_never_loads_the_json_ld_library() -> None:
    """Reading a compact body with the hook at hand costs no pyld."""
    code = (
        "import sys; from contracts.codec import parse; from contracts.messages import CatalogRequestMessage as C;"
        "from policies.jsonld import compact_to_dsp;"
        f"""parse(b'{{"@context": ["{CONTEXT}"], "@type": "CatalogRequestMessage"}}', frozenset({{C}}), compact_to_dsp);"""
        "sys.exit('pyld' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "body",
    [
        {"@context": {"ds": DSP}, "ds:filter": [{"n": n} for n in range(MAX_NODES)]},
        {"@context": {"ds": DSP}, "ds:reason": "x" * MAX_BYTES},
        {"@context": "https://elsewhere.example/context.jsonld"},
        [{"@id": "urn:a"}, {"@id": "urn:b"}],
    ],
    ids=["values", "bytes", "fetched", "two"],
)
def test_what_is_too_much_to_expand_is_refused(body: object) -> None:
    """Too many values, too many bytes, a context that would be fetched, two things at once: malformed, quickly."""
    with pytest.raises(MalformedMessageError):
        parse(raw(body), frozenset({m.CatalogRequestMessage}), compact_to_dsp)


def test_a_filter_that_falls_away_is_not_ignored() -> None:
    """A filter whose names mean nothing under its context must not turn into a request for everything."""
    body = {"@context": PREFIXED, "@type": "ds:CatalogRequestMessage", "ds:filter": {"colour": "red"}}
    both = body | {"ds:filter": {"colour": "red", "orch:text": "x"}}
    with pytest.raises(MalformedMessageError, match="filter"):
        parse(raw(both), frozenset({m.CatalogRequestMessage}), compact_to_dsp)
    with pytest.raises(MalformedMessageError, match="filter"):
        parse(raw(body), frozenset({m.CatalogRequestMessage}), compact_to_dsp)
    empty = body | {"ds:filter": {}}
    assert parse(raw(empty), frozenset({m.CatalogRequestMessage}), compact_to_dsp).message == m.CatalogRequestMessage()


def test_a_data_address_keeps_its_secrets_in_every_form() -> None:
    """An endpoint's properties survive expansion, however they are written."""
    message = m.TransferStartMessage(**BOTH, data_address=ADDRESS)
    for form in FORMS:
        found = parse(raw(form(encode(message, message_id="urn:m"))), frozenset({type(message)}), compact_to_dsp)
        assert found.message.data_address.property("authorization") == "s"
