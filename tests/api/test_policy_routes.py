"""Management of policies, duties, endings, webhooks and audits, and consents in another service's shape, over HTTP."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from connector.audit_export import AuditExporter
from connector.cli.main import app as orchard
from connector.consent_services import ExternalConsents
from connector.http.audit import audit_router
from connector.http.consents import consent_router
from connector.http.policies import policies_router
from connector.http.problems import install_problem_handlers
from connector.http.prometheus_x import prometheus_x_router
from connector.identity.learners import LearnerIdentity
from connector.identity.operators import OperatorVerifier
from connector.storage.database import Database
from connector.storage.decisions import SqlDecisionLog
from connector.storage.duties import SqlDuties
from connector.storage.external_consents import ExternalConsent, SqlExternalConsents
from connector.storage.migrate import upgrade
from connector.storage.webhooks import SqlWebhooks
from policies.audit import verify_export
from policies.duties import Duty
from policies.errors import EvidenceError
from policies.receipts import verify_receipt
from tests.support.consents import DATASET, NOTICE, PURPOSE, START, ConsentRig, consent_rig, notice

TOKEN = "operator-token-of-this-test-only"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
AGREEMENT = "urn:uuid:agreement"


@dataclasses.dataclass(kw_only=True)
class Site:
    """The routes over one provider; ``granted`` is what the other service says now."""

    http: TestClient
    rig: ConsentRig
    duties: SqlDuties
    granted: set[str]

    def say(self, event_id: str, **changes: Any) -> Any:
        """Post an answer of the learner that the header names."""
        who = changes.pop("who", "ada 1990")
        body = {
            "event_id": event_id,
            "decision": "grant",
            "notice_id": NOTICE,
            "notice_version": 1,
            "language": "en",
            "purpose": PURPOSE,
        }
        return self.http.post("/consent/records", json=body | changes, headers={"Authorization": who})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give the routes."""
    url = f"sqlite:///{tmp_path / 'o.sqlite'}"
    upgrade(url)
    database = Database(url)
    rig, duties, granted = consent_rig(database), SqlDuties(database), set[str]()
    rig.service.publish_notice(notice())

    def somebody(header: str | None) -> LearnerIdentity:
        name, _, born = (header or "nobody").partition(" ")
        scopes = frozenset({"learner", "guardian", "consent:manage"})
        return LearnerIdentity(subject=name, country="DE", birth_year=int(born) if born else None, scopes=scopes)

    def status(link: ExternalConsent) -> bool:
        return link.consent_id in granted

    external = ExternalConsents(links=SqlExternalConsents(database), status=status)
    exporter = AuditExporter(consents=rig.service, decisions=SqlDecisionLog(database), duties=duties, now=rig.clock)
    app = FastAPI()
    install_problem_handlers(app)
    app.state.operators = OperatorVerifier(
        participant_id="did:web:school.example", token=TOKEN, issuer=None, jwks=None, now=rig.clock
    )
    known = AGREEMENT.__eq__
    app.include_router(policies_router(duties, SqlWebhooks(database), known, rig.clock, rig.ids))
    app.include_router(audit_router(exporter))
    app.include_router(prometheus_x_router(rig.service, external, somebody))
    app.include_router(consent_router(rig.service, somebody))
    with TestClient(app) as http:
        yield Site(http=http, rig=rig, duties=duties, granted=granted)
    database.close()


def test_a_policy_explains_itself(site: Site) -> None:
    """Verdict, sentences, and which fact was not given."""
    policy = {
        "@id": "urn:p",
        "permission": [
            {
                "action": "use",
                "constraint": [{"leftOperand": "purpose", "operator": "isA", "rightOperand": PURPOSE}],
            }
        ],
    }
    body: dict[str, Any] = {"policy": policy, "facts": {"purpose": PURPOSE}}
    found = site.http.post("/management/policies/explain", json=body, headers=ADMIN).json()
    assert (found["verdict"], found["missing_facts"]) == ("permit", [])
    blind = site.http.post("/management/policies/explain", json={"policy": policy}, headers=ADMIN).json()
    assert (blind["verdict"], blind["missing_facts"]) == ("deny", ["purpose"])
    assert any("nothing is known" in sentence for sentence in blind["sentences"])
    broken = site.http.post("/management/policies/explain", json={"policy": {"x": 1}}, headers=ADMIN).json()
    assert broken["reasons"][0]["code"] == "malformed"
    assert site.http.post("/management/policies/explain", json=body).status_code == 401


def test_duties_and_endings_are_managed(site: Site) -> None:
    """A duty is listed, fulfilled with evidence, and an agreement is ended once; nobody's agreement is a 404."""
    duty = Duty(
        duty_id="d1",
        agreement_id=AGREEMENT,
        kind="urn:delete",
        holder="did:web:ai",
        terms="",
        created_at=START,
        due_at=START,
    )
    site.duties.note({AGREEMENT: [duty]}, START)
    standing = site.http.get("/management/agreement-standing", params={"agreement_id": AGREEMENT}, headers=ADMIN)
    assert len(standing.json()["overdue"]) == 1
    assert site.http.post("/management/duties/d1/fulfilment", json={"evidence": {}}, headers=ADMIN).status_code == 422
    done = site.http.post("/management/duties/d1/fulfilment", json={"evidence": {"log": "x"}}, headers=ADMIN)
    assert done.json()["state"] == "fulfilled"
    assert [row["state"] for row in site.http.get("/management/duties", headers=ADMIN).json()] == ["fulfilled"]
    end = {"agreement_id": AGREEMENT, "reason": "the project is over"}
    assert site.http.post("/management/agreement-endings", json=end, headers=ADMIN).json()["cancelled"]
    other = end | {"agreement_id": "urn:uuid:other"}
    assert site.http.post("/management/agreement-endings", json=other, headers=ADMIN).status_code == 404


def test_webhooks_are_subscribed_and_dropped(site: Site) -> None:
    """An address is typed in, seen, and dropped; deliveries are to be seen meanwhile."""
    body = {"url": "https://lms.example/hook", "events": ["withdrawn"]}
    made = site.http.post("/management/webhooks", json=body, headers=ADMIN).json()
    site.say("e1")
    where = f"/management/webhooks/{made['webhook_id']}"
    assert site.http.get(f"{where}/deliveries", headers=ADMIN).json() == []
    assert [item["url"] for item in site.http.get("/management/webhooks", headers=ADMIN).json()] == [body["url"]]
    assert site.http.delete(where, headers=ADMIN).status_code == 204
    assert site.http.delete(where, headers=ADMIN).status_code == 404
    assert site.http.post("/management/webhooks", json={"url": "file:///etc"}, headers=ADMIN).status_code == 422


def test_an_export_verifies_offline_and_fails_after_one_changed_byte(site: Site, tmp_path: Path) -> None:
    """Everything of a period, or of one person, in one signed file that the command checks by itself."""
    for number, name in enumerate(("ada", "bob")):
        site.say(f"e{number}", who=f"{name} 1990")
    whole = site.http.get("/management/audit/export", headers=ADMIN)
    found = verify_export(whole.json(), site.rig.signer.public_key)
    assert (found.records, found.events) == (2, 2)
    one = site.http.get("/management/audit/export", params={"subject": "ada"}, headers=ADMIN).json()
    assert len(one["payload"]["records"]) == 1
    later = {"from": "2027-01-01T00:00:00Z"}
    assert site.http.get("/management/audit/export", params=later, headers=ADMIN).json()["payload"]["records"] == []
    file = tmp_path / "export.json"
    file.write_text(whole.text)
    key = site.rig.signer.public_key
    assert CliRunner().invoke(orchard, ["audit", "verify", str(file), "--key", key]).exit_code == 0
    assert "its own claim" in CliRunner().invoke(orchard, ["audit", "verify", str(file)]).output
    file.write_text(whole.text.replace('"granted"', '"refused"', 1))
    broken = CliRunner().invoke(orchard, ["audit", "verify", str(file), "--key", key])
    assert isinstance(broken.exception, EvidenceError)


def test_a_receipt_verifies_by_command_and_a_forged_one_does_not(site: Site, tmp_path: Path) -> None:
    """The holder needs nothing but the file and the provider's DID document; one changed byte, or another key, fails."""
    receipt = site.say("e1").json()["receipt"]
    verify_receipt(receipt, site.rig.signer.public_key)
    file, did = tmp_path / "receipt.json", tmp_path / "did.json"
    file.write_text(json.dumps(receipt))
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": site.rig.signer.public_key}
    did.write_text(json.dumps({"verificationMethod": [{"publicKeyJwk": jwk}]}))
    good = CliRunner().invoke(orchard, ["consent", "verify", str(file), "--did", str(did), "--json"])
    assert json.loads(good.output)["issuer_checked"]
    text = json.dumps(receipt)
    file.write_text(text.replace("P1Y", "P9Y", 1))
    assert isinstance(CliRunner().invoke(orchard, ["consent", "verify", str(file)]).exception, EvidenceError)
    file.write_text(text)
    strange = ["consent", "verify", str(file), "--key", "A" * 43]
    assert isinstance(CliRunner().invoke(orchard, strange).exception, EvidenceError)


def test_an_expired_notice_and_a_replayed_grant_are_refused(site: Site) -> None:
    """Nobody consents to a notice that has run out; an answer's id stands for one answer."""
    assert site.say("e1").status_code == 201
    assert site.say("e1").status_code == 201
    replayed = site.say("e1", decision="refuse")
    assert (replayed.status_code, replayed.json()["code"]) == (409, "consent-replayed")
    until = site.rig.clock().isoformat()
    site.rig.service.publish_notice(notice(version=2, valid_until=until))
    expired = site.say("e2", notice_version=2, who="bob 1990")
    assert (expired.status_code, expired.json()["code"]) == (403, "notice")
    assert "expired" in expired.json()["detail"]


def test_rows_with_wrong_clocks_strange_datasets_and_grown_wards_are_refused_each(site: Site) -> None:
    """Each row of an import says for itself what is wrong with it, and none of its values."""
    row: dict[str, Any] = {
        "event_id": "r",
        "subject": "s-secret",
        "decision": "grant",
        "notice_id": NOTICE,
        "notice_version": 1,
        "language": "de",
        "purpose": PURPOSE,
        "expressed_at": START.isoformat(),
        "country": "DE",
        "birth_year": 1990,
    }
    wrong = {
        "ahead": {"expressed_at": "2026-11-21T10:00:00+00:00"},
        "naive": {"expressed_at": "2026-11-21T09:00:00"},
        "other-provider": {"notice_id": "urn:notice:another-school"},
        "grown": {"guardian": "mum", "verification": "school-register"},
        "ageless": {"birth_year": None},
    }
    rows = [row | {"event_id": name} | changes for name, changes in wrong.items()]
    answer = site.http.post("/consent/import", json={"records": rows}, headers={"Authorization": "lms"})
    assert answer.json()["refused"] == len(rows)
    codes = [item["code"] for item in answer.json()["results"]]
    assert codes == ["consent-format", "consent-format", "notice", "guardian-not-allowed", "age-unknown"]
    assert "s-secret" not in answer.text
    # A few minutes are two clocks that disagree; they do not put a consent into the future.
    close = row | {"event_id": "close", "expressed_at": "2026-11-21T09:04:00+00:00"}
    taken = site.http.post("/consent/import", json={"records": [close]}, headers={"Authorization": "lms"})
    assert taken.json()["recorded"] == 1


def test_ones_own_data_is_exported_and_nobody_elses(site: Site) -> None:
    """The export holds one's records with their events; the history shows each event; a stranger sees nothing."""
    record = site.say("e1").json()["record"]["record_id"]
    ada, eve = {"Authorization": "ada 1990"}, {"Authorization": "eve 1990"}
    mine = site.http.get("/consent/export", headers=ada).json()
    assert [item["@id"] for item in mine["records"]] == [record]
    assert site.http.get("/consent/export", headers=eve).json() == {"records": [], "uses": []}
    events = site.http.get(f"/consent/records/{record}/history", headers=ada).json()
    assert [event["action"] for event in events] == ["grant"]
    assert site.http.get(f"/consent/records/{record}/history", headers=eve).status_code == 404


def test_another_services_consents_count_only_while_it_confirms_them(site: Site) -> None:
    """Imported in that service's shape; its status decides at each question, a token never; our own answer wins."""
    consent = {
        "_id": "c1",
        "user": "u1",
        "providerUserIdentifier": {"identifier": "ada"},
        "status": "granted",
        "purposes": [{"purpose": PURPOSE}],
        "event": [{"eventTime": START.isoformat(), "eventState": "granted"}],
        "token": "a-token-that-proves-nothing",
    }
    beside = {"notice_id": NOTICE, "notice_version": 1, "language": "en", "country": "DE", "birth_year": 1990}
    entries = [{"consent": consent, **beside}, {"consent": consent | {"status": "draft"}, **beside}, {"consent": 7}]
    manager = {"Authorization": "lms"}
    answer = site.http.post("/consent/prometheus-x/consents", json={"consents": entries}, headers=manager).json()
    assert (answer["recorded"], answer["refused"]) == (1, 2)
    (listed,) = site.http.get("/consent/prometheus-x/consents", params={"user": "ada"}, headers=manager).json()
    assert (listed["status"], listed["data"][0]["resource"]) == ("granted", DATASET)
    where = f"/consent/prometheus-x/consents/{listed['_id']}/validate"
    assert not site.http.post(where, headers=manager).json()["verified"]
    site.granted.add("c1")
    assert site.http.post(where, headers=manager).json()["verified"]
    site.granted.clear()
    assert not site.http.post(where, headers=manager).json()["verified"]
    site.rig.clock.advance(minutes=1)
    ada = {"Authorization": "ada 1990"}
    site.http.post(f"/consent/records/{listed['_id']}/withdraw", json={"event_id": "w"}, headers=ada)
    assert site.http.post(where, headers=manager).json() == {
        "verified": False,
        "status": "revoked",
        "reason": "the consent is revoked",
    }
    assert site.say("again").status_code == 201
    assert site.http.post(where, headers=manager).json()["verified"]
