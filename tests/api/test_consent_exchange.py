"""A consent attached to a data exchange, between two connectors, driven by a Prometheus-X consent manager as it is.

It validates the token of a revoked consent, and anybody who has opened one envelope can seal another.
"""

import base64
import dataclasses
import json
import secrets
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.testclient import TestClient

from connector.consent_exchange import REFERENCE, ConsentExchange
from connector.consent_services import ConsentManagerStatus
from connector.foundation import utc_now
from connector.http.problems import install_problem_handlers
from connector.http.prometheus_x_exchange import prometheus_x_exchange_router
from connector.peers.typed import typed_client
from connector.policy_log import LoggedPolicyGate
from connector.rooms import NoTrainer, Rooms, lay_rooms
from connector.storage.decisions import SqlDecisionLog
from connector.storage.external_consents import ExternalConsent
from contracts.messages import Offer
from contracts.processes import Dataset
from policies.ages import Person
from policies.errors import ConsentFormatError, EvidenceError
from policies.gate import PolicyGate
from policies.prometheus_x_envelope import open_envelope, read_manager_key
from policies.templates import fill_template
from tests.support.consents import DATASET, OTHER_PURPOSE, PURPOSE, Clock, imported, notice
from tests.support.participants import Participant, Space

MANAGER = "http://consents.example"
_PRIME_BITS = 2048


@dataclasses.dataclass(kw_only=True)
class Manager:
    """The consent manager: consents by id, tokens as attached, and its faulty way to validate."""

    key: rsa.RSAPrivateKey
    consents: dict[str, dict[str, Any]]
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)
    asked: list[str] = dataclasses.field(default_factory=list)

    def app(self) -> FastAPI:
        """Return its routes as the connectors call them."""
        app = FastAPI()

        @app.post("/consents/{name}/token")
        async def token(name: str, request: Request) -> Response:
            self.tokens[name] = (await request.json())["token"]
            return JSONResponse({"ok": True})

        @app.post("/consents/{name}/validate")
        async def validate(name: str, request: Request) -> Response:
            self.asked.append("validate")
            # As that service does: the token alone decides, whatever has become of the consent.
            return JSONResponse({"verified": self.tokens.get(name) == (await request.json())["token"]})

        @app.get("/consents/participants/{user}/{name}")
        def status(user: str, name: str) -> Response:
            self.asked.append("status")
            found = self.consents.get(name)
            return JSONResponse(found) if found and found["user"] == user else JSONResponse({}, 404)

        return app

    def envelope(self, name: str, **changes: Any) -> dict[str, str]:
        """Return the envelope of a consent with its token, as that service seals it."""
        consent = self.consents[name] | ({"token": self.tokens[name]} if name in self.tokens else {}) | changes
        return seal(self.key, consent)


def seal(key: rsa.RSAPrivateKey, consent: object, aes: bytes | None = None) -> dict[str, str]:
    """Seal a consent: the AES key under RSA with padding of type 1, the consent under the AES key."""
    secret, start = aes or secrets.token_hex(16).encode(), secrets.token_bytes(16)
    padder = PKCS7(128).padder()
    padded = padder.update(json.dumps(consent).encode()) + padder.finalize()
    encryptor = Cipher(AES(secret), CBC(start)).encryptor()
    text = encryptor.update(padded) + encryptor.finalize()
    numbers, size = key.private_numbers(), key.key_size // 8
    block = b"\x00\x01" + b"\xff" * (size - 3 - len(secret)) + b"\x00" + secret
    sealed = pow(int.from_bytes(block), numbers.d, numbers.public_numbers.n).to_bytes(size)
    return {"signedConsent": f"{start.hex()}:{text.hex()}", "encrypted": base64.b64encode(sealed).decode()}


@dataclasses.dataclass(kw_only=True)
class Side:
    """One connector: its exchange, its routes, and what it has logged."""

    participant: Participant
    rooms: Rooms
    http: TestClient

    def post(self, path: str, body: object) -> Any:
        """Call one of the exchange's routes without a name."""
        return self.http.post(f"/prometheus-x/{path}", json=body)


@dataclasses.dataclass(kw_only=True)
class Stage:
    """A provider, a consumer, and the consent manager between them."""

    provider: Side
    consumer: Side
    manager: Manager
    clock: Clock

    def hand_out(self) -> None:
        """Let the manager drive the exchange up to the point where the consumer holds the consent."""
        assert self.provider.post("consent/export", self.manager.envelope("c1")).status_code == 200

    def ask(self, **changes: Any) -> Any:
        """Let the manager hand the consent to the consumer, which asks the provider."""
        where = f"{self.provider.participant.settings.server.public_url}/prometheus-x/data/export"
        return self.consumer.post(
            "consent/import", self.manager.envelope("c1", **changes) | {"dataProviderEndpoint": where}
        )

    def export(self, **changes: Any) -> Any:
        """Ask the provider for the data as the consumer would."""
        return self.provider.post("data/export", self.manager.envelope("c1", **changes))


@pytest.fixture(scope="module")
def manager_key() -> rsa.RSAPrivateKey:
    """Give a key of the manager, one for the module."""
    return rsa.generate_private_key(public_exponent=65537, key_size=_PRIME_BITS)


@pytest.fixture
def stage(data_space: Space, manager_key: rsa.RSAPrivateKey) -> Stage:
    """Give two connectors that know each other, and a consent that an institution has handed in."""
    school, ai = data_space.add("school", 8601), data_space.add("ai", 8602, role="ai-provider")
    for one, other in ((school, ai), (ai, school)):
        body = {"address": other.settings.server.public_url}
        assert one.client.post("/management/peers", json=body, headers=one.operator).status_code < 300
    consent = {
        "_id": "c1",
        "user": "u1",
        "providerUserIdentifier": {"identifier": "learner-1"},
        "consumerUserIdentifier": {"identifier": "someone-there"},
        "dataProvider": {"id": school.id},
        "dataConsumer": {"id": ai.id},
        "status": "granted",
        "purposes": [{"purpose": PURPOSE}],
        "data": [DATASET],
        "event": [{"eventTime": utc_now().isoformat()}],
    }
    manager = Manager(key=manager_key, consents={"c1": consent})
    data_space.network.apps[MANAGER] = TestClient(manager.app(), base_url=MANAGER)
    clock = Clock()
    clock.time = utc_now()
    sides = [side(data_space, one, manager, clock) for one in (school, ai)]
    hand_in(sides[0].rooms)
    return Stage(provider=sides[0], consumer=sides[1], manager=manager, clock=clock)


def side(space: Space, one: Participant, manager: Manager, clock: Clock) -> Side:
    """Give a participant the exchange, over the same wire as everything else."""
    rooms = lay_rooms(one.foundation, ring=lambda _t, _k: None, doorbell=NoDoorbell(), trainer=NoTrainer())
    client = typed_client(lambda url: url.startswith(MANAGER), 1.0, None)
    client._transport = space.network
    exchange = ConsentExchange(
        key=manager.key.public_key(),
        manager=ConsentManagerStatus(MANAGER, "token", client, clock),
        links=rooms.external.links,
        consents=dataclasses.replace(rooms.consents, now=clock),
        dataset=rooms.contracts.store.dataset,
        gate=LoggedPolicyGate(gate=PolicyGate(now=clock), log=rooms.decisions, now=clock),
        peer=one.foundation.directory.get,
        client=one.foundation.client,
        secret=b"a secret of this provider only",
        own_id=one.id,
        own_address=one.settings.server.public_url,
    )
    app = FastAPI()
    app.state.peers = one.app.state.peers
    app.include_router(prometheus_x_exchange_router(exchange))
    install_problem_handlers(app)
    http = TestClient(app, base_url=one.settings.server.public_url)
    space.network.apps[one.settings.server.public_url] = http
    return Side(participant=one, rooms=rooms, http=http)


class NoDoorbell:
    """Nobody sends DSP messages here."""

    def row(self, row: object) -> None:
        """Forget it."""

    def act(self, kind: object, pid: str) -> None:
        """Forget it."""

    def later(self, at: object) -> None:
        """Forget it."""


def hand_in(rooms: Rooms) -> None:
    """Let the institution hand in the consent with its notice, language and age, for an offered dataset."""
    rooms.consents.publish_notice(notice())
    person = Person(country="DE", birth_year=1990)
    (result,) = rooms.consents.import_expressions(
        [imported(1, person=person, expressed_at=None, source="prometheus-x")]
    )
    record = rooms.consents.store.run("test", lambda unit: unit.record(result.record_id))
    assert record is not None
    link = ExternalConsent(
        record_id=record.record_id,
        subject_ref=record.subject_ref,
        dataset_id=DATASET,
        purpose=PURPOSE,
        consent_id="c1",
        user_id="u1",
    )
    rooms.external.links.link([link])
    terms = {
        "offer_id": "urn:offer",
        "purpose": PURPOSE,
        "valid_from": "2026-01-01T00:00:00Z",
        "valid_until": "2036-01-01T00:00:00Z",
        "cohort_floor": 10,
    }
    rules = fill_template("training", terms)
    offer = Offer(id="urn:offer", target=DATASET, rules={"permission": rules["permission"]})
    dataset = Dataset(id=DATASET, title="Answers", offer=offer, formats=("FederatedTraining",))
    rooms.contracts.store.run("test.dataset", lambda unit: unit.put_dataset(dataset, now=utc_now()))


def test_a_consent_travels_with_an_exchange_and_no_row_does(stage: Stage) -> None:
    """Export, token, import, export of data, validation, status, policy, and a reference: where one may compute."""
    stage.hand_out()
    assert stage.manager.tokens["c1"].count("-") == 4
    said = stage.ask()
    assert (said.status_code, said.json()) == (200, {"message": "OK"})
    assert stage.manager.asked == ["validate", "status", "status"], "provider both, consumer the status"
    (line,) = SqlDecisionLog(stage.provider.participant.foundation.database).newest()
    assert (line.verdict, line.scope, line.assignee) == ("permit", "negotiation", stage.consumer.participant.id)


def test_a_validated_token_of_a_consent_that_is_not_granted_moves_nothing(stage: Stage) -> None:
    """The service still validates the token; its own status says otherwise, and that is what counts."""
    stage.hand_out()
    for status in ("revoked", "terminated", "expired", "pending", "refused"):
        stage.manager.asked.clear()
        stage.manager.consents["c1"]["status"] = status
        refused = stage.export(status="granted")
        assert (refused.status_code, refused.json()["code"]) == (403, "consent-refused"), status
        assert "does not say that it is granted now" in refused.json()["detail"]
        assert stage.manager.asked == ["validate", "status"]
    assert stage.ask(status="granted").status_code == 502, "the consumer is told that its provider refused"


def test_what_we_know_ourselves_beats_what_the_service_says(stage: Stage) -> None:
    """A learner who withdrew here is not exchanged because another service has not heard of it."""
    stage.hand_out()
    stage.clock.advance(days=400)
    assert "does not count here" in stage.export().json()["detail"]


RESEALED: list[tuple[dict[str, Any], int, str]] = [
    ({"token": "00000000-0000-4000-8000-000000000000"}, 403, "not the one that this provider attached"),
    ({"token": None}, 403, "not the one that this provider attached"),
    ({"_id": "c2"}, 404, "no institution has handed in this consent"),
    ({"_id": 7}, 403, "the consent has no id"),
    ({"dataConsumer": {"id": "did:web:stranger"}}, 403, "dataConsumer is no member"),
    ({"dataConsumer": "http://127.0.0.1:9/steal"}, 403, "dataConsumer is no member"),
]


def test_an_envelope_that_somebody_else_sealed_again_gets_nowhere(stage: Stage) -> None:
    """Whoever has opened one envelope can seal other words under its key: token, id and consumer are checked here."""
    stage.hand_out()
    for changes, status, words in RESEALED:
        refused = stage.export(**changes)
        assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json"), changes
        assert words in refused.json()["detail"]


def test_the_policy_is_asked_for_the_purpose_of_our_own_record(stage: Stage) -> None:
    """Another consumer or purpose in the envelope changes nothing: the record's own purpose is the one that is asked."""
    stage.hand_out()
    assert stage.export(purposes=[{"purpose": OTHER_PURPOSE}]).status_code in (200, 502)
    (line,) = SqlDecisionLog(stage.provider.participant.foundation.database).newest()
    assert PURPOSE in str(line.reasons)


def test_a_consumer_takes_no_row(stage: Stage) -> None:
    """A provider that sends a person's data is refused, whatever consent it shows."""
    stage.hand_out()
    issuer, consumer = stage.provider.participant.foundation.issuer, stage.consumer
    for data in ([{"answers": [1, 0, 1]}], {"@type": "rows"}, [], None, "text"):
        header = {"authorization": issuer.authorization(consumer.participant.id)}
        body = stage.manager.envelope("c1") | {"data": data, "user": "x"}
        refused = consumer.http.post("/prometheus-x/data/import", json=body, headers=header)
        assert (refused.status_code, refused.json()["code"]) == (422, "no-rows")


def test_a_consumer_takes_a_reference_only_from_the_provider_that_the_consent_names(stage: Stage) -> None:
    """Nobody without a name, and no other member, may say where a person's data lies; the status is asked here too."""
    stage.hand_out()
    body = stage.manager.envelope("c1") | {"data": [{"@type": REFERENCE, "dataset": DATASET}], "user": "x"}
    where = "/prometheus-x/data/import"
    assert stage.consumer.http.post(where, json=body).status_code == 401
    ours = stage.provider.participant.foundation.issuer
    other = stage.manager.envelope("c1", dataProvider={"id": stage.consumer.participant.id}) | {"data": body["data"]}
    header = {"authorization": ours.authorization(stage.consumer.participant.id)}
    assert "names another provider" in stage.consumer.http.post(where, json=other, headers=header).json()["detail"]
    stage.manager.consents["c1"]["status"] = "revoked"
    header = {"authorization": ours.authorization(stage.consumer.participant.id)}
    assert stage.consumer.http.post(where, json=body, headers=header).status_code == 403
    stage.manager.consents["c1"]["status"] = "granted"
    header = {"authorization": ours.authorization(stage.consumer.participant.id)}
    taken = stage.consumer.http.post(where, json=body, headers=header)
    assert taken.json() == {"message": "OK", "datasets": [DATASET]}


def test_a_consumer_asks_only_the_provider_that_the_consent_names(stage: Stage) -> None:
    """An endpoint elsewhere is not called, whoever names it."""
    stage.hand_out()
    body = stage.manager.envelope("c1") | {"dataProviderEndpoint": "http://127.0.0.1:9/data/export"}
    refused = stage.consumer.post("consent/import", body)
    assert (refused.status_code, refused.json()["code"]) == (403, "consent-refused")


def test_hostile_envelopes_are_refused_in_words(manager_key: rsa.RSAPrivateKey, stage: Stage) -> None:
    """Another key, broken text, no consent inside: a refusal each, and never an error of ours."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=_PRIME_BITS)
    good, public = seal(manager_key, {"_id": "c1"}), manager_key.public_key()
    assert open_envelope(good["signedConsent"], good["encrypted"], public) == {"_id": "c1"}
    wrong = [
        seal(stranger, {"_id": "c1"}),
        seal(manager_key, {"_id": "c1"}, aes=b"z" * 32),
        seal(manager_key, ["c1"]),
        good | {"encrypted": "not base64"},
        good | {"encrypted": "QUJD"},
        good | {"signedConsent": good["signedConsent"][:-2]},
        good | {"signedConsent": "00" * 16 + ":" + "00" * 16},
        good | {"signedConsent": ""},
    ]
    for envelope in wrong:
        with pytest.raises(EvidenceError):
            open_envelope(envelope["signedConsent"], envelope["encrypted"], public)
        said = stage.provider.post("data/export", envelope)
        assert (said.status_code, said.json()["code"]) == (422, "evidence")
    for value in (None, 7, {}):
        with pytest.raises(EvidenceError):
            open_envelope(value, value, public)


def test_without_a_consent_service_the_routes_say_so(data_space: Space) -> None:
    """A participant that has configured none answers each route with one sentence; a wrong key file is named at once."""
    north = data_space.add("north", 8603)
    answer = north.client.post("/prometheus-x/data/export", json={"signedConsent": "a", "encrypted": "b"})
    assert (answer.status_code, answer.json()["code"]) == (404, "no-consent-service")
    key = rsa.generate_private_key(public_exponent=65537, key_size=_PRIME_BITS).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert read_manager_key(pem).key_size == _PRIME_BITS
    for text in (b"", b"no key"):
        with pytest.raises(ConsentFormatError):
            read_manager_key(text)
