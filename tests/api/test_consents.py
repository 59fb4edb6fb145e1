"""The consent endpoints as a learner, a guardian and an institution meet them."""

from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey

from policies.receipts import verify_receipt
from tests.support.consent_site import ConsentSite as Site
from tests.support.consent_site import consent_site as site
from tests.support.consents import DATASET, NOTICE, PURPOSE, START, notice, notice_body

__all__ = ["site"]


def test_a_notice_comes_in_the_readers_language(site: Site) -> None:
    """Accept-Language decides, and an unknown language gets the notice's own default."""
    german = site.http.get(f"/consent/notices/{NOTICE}", headers={"Accept-Language": "fr, de-AT;q=0.8, en;q=0.2"})
    assert german.headers["content-language"] == "de"
    assert german.json()["title"] == "Was mit deinen Antworten geschieht"
    assert german.json()["languages"] == ["de", "en"]
    chinese = site.http.get("/consent/notices", headers={"Accept-Language": "zh"}).json()
    assert chinese[0]["language"] == "en"
    assert site.http.get("/consent/notices/urn:nowhere").status_code == 404


def test_a_learner_grants_reads_the_receipt_and_withdraws(site: Site) -> None:
    """The whole way of one learner, with receipts that verify offline."""
    ada = site.token("ada")
    granted = site.answer("e1", ada)
    assert granted.status_code == 201
    record_id = granted.json()["record"]["record_id"]
    verify_receipt(granted.json()["receipt"], site.rig.signer.public_key)
    assert [item["state"] for item in site.http.get("/consent/records", headers=ada).json()] == ["granted"]
    withdrawn = site.http.post(f"/consent/records/{record_id}/withdraw", json={"event_id": "e2"}, headers=ada)
    assert withdrawn.json()["record"]["state"] == "withdrawn"
    receipt = site.http.get(f"/consent/records/{record_id}/receipt", headers=ada).json()
    assert verify_receipt(receipt, site.rig.signer.public_key)["state"] == "withdrawn"
    again = site.http.post(f"/consent/records/{record_id}/withdraw", json={"event_id": "e3"}, headers=ada)
    assert (again.status_code, again.json()["code"]) == (409, "consent-state")
    assert site.http.get("/consent/uses", headers=ada).json() == []


def test_an_expired_consent_shows_and_is_renewed(site: Site) -> None:
    """A learner sees that a consent ran out and renews it."""
    ada = site.token("ada")
    record_id = site.answer("e1", ada).json()["record"]["record_id"]
    site.rig.clock.advance(days=366)
    ada = site.token("ada")
    assert site.http.get("/consent/records", headers=ada).json()[0]["state"] == "expired"
    body = {"event_id": "e2", "notice_version": 1}
    renewed = site.http.post(f"/consent/records/{record_id}/renew", json=body, headers=ada)
    assert renewed.json()["record"]["state"] == "renewed"


def test_another_persons_record_and_none_look_the_same(site: Site) -> None:
    """Somebody else's record answers exactly like one that does not exist."""
    record_id = site.answer("e1", site.token("ada")).json()["record"]["record_id"]
    eve = site.token("eve")
    theirs = site.http.get(f"/consent/records/{record_id}/receipt", headers=eve)
    nobodys = site.http.get("/consent/records/urn:uuid:none/receipt", headers=eve)
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    assert theirs.json() == nobodys.json()
    taken = site.http.post(f"/consent/records/{record_id}/withdraw", json={"event_id": "e9"}, headers=eve)
    assert taken.status_code == 404


def test_a_child_needs_the_guardian_whom_the_school_knows(site: Site) -> None:
    """A child alone is refused; a guardian with a verified ward is heard; for others they are not."""
    alone = site.answer("e1", site.token("kim", birth_year=2015))
    assert (alone.status_code, alone.json()["code"]) == (403, "guardian-needed")
    ward = {"sub": "kim", "country": "DE", "birth_year": 2015, "verification": "school-register"}
    mum = site.token("mum", "guardian", guardian_of=[ward])
    assert site.answer("e2", mum, subject="kim").json()["record"]["expressed_by"] == "guardian"
    assert site.answer("e3", mum, subject="other").json()["code"] == "guardian-not-allowed"
    without_scope = site.token("mum", "learner", guardian_of=[ward])
    assert site.answer("e4", without_scope, subject="kim").status_code == 403
    grown = site.token("mum", "guardian", guardian_of=[ward | {"birth_year": 1999}])
    assert site.answer("e5", grown, subject="kim").json()["code"] == "guardian-not-allowed"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"aud": "did:web:other"},
        {"exp": int(START.timestamp()) - 3600},
        {"nbf": int(START.timestamp()) + 3600},
        {"sub": ""},
        {"guardian_of": "everybody"},
        {"guardian_of": [{"sub": "kim"}]},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(site: Site, claims: dict[str, Any]) -> None:
    """Issuer, audience, times, subject and wards are all checked."""
    assert site.answer("e1", site.token("ada", **claims)).status_code == 401


def test_a_token_of_another_key_is_refused(site: Site) -> None:
    """A signature by a key outside the configured set is worth nothing; so is no token at all."""
    strange = OKPKey.generate_key("Ed25519", {"kid": "k1"})
    assert site.answer("e1", site.token("ada", key=strange)).status_code == 401
    assert site.answer("e1", site.token("ada", key=ECKey.generate_key("P-256", {"kid": "k2"}))).status_code == 401
    assert site.answer("e1", {}).status_code == 401
    assert site.answer("e1", site.token("ada", scope="")).status_code == 403


def test_an_institution_imports_and_counts(site: Site) -> None:
    """Rows are judged one by one, malformed ones in their place and without repeating their values."""
    manager = site.token("lms", "consent:manage")
    row = {
        "event_id": "r0",
        "subject": "s0",
        "decision": "grant",
        "notice_id": NOTICE,
        "notice_version": 1,
        "language": "de",
        "purpose": PURPOSE,
        "expressed_at": START.isoformat(),
        "country": "DE",
        "birth_year": 1990,
    }
    rows = [row | {"event_id": f"r{number}", "subject": f"s{number}"} for number in range(12)]
    rows.insert(1, row | {"subject": "secret-name", "decision": "maybe"})
    answer = site.http.post("/consent/import", json={"records": rows}, headers=manager)
    assert (answer.json()["recorded"], answer.json()["refused"]) == (12, 1)
    assert answer.json()["results"][1]["code"] == "consent-format"
    assert "secret-name" not in answer.text
    query = {"dataset_id": DATASET, "purpose": PURPOSE}
    counts = site.http.get("/consent/counts", params=query, headers=manager).json()
    assert (counts["lower"], counts["upper"], counts["text"]) == (10, 19, "10 to 19")
    few = site.http.get("/consent/counts", params=query | {"purpose": "urn:none"}, headers=manager).json()
    assert (few["lower"], few["text"]) == (None, "fewer than 10")
    learner = site.token("ada")
    assert site.http.post("/consent/import", json={"records": []}, headers=learner).status_code == 403
    assert site.http.get("/consent/counts", params=query, headers=learner).status_code == 403
    assert site.http.get("/consent/records", headers=manager).status_code == 403


def test_what_a_notice_does_not_offer_cannot_be_granted(site: Site) -> None:
    """Version, language and purpose must be the notice's; the problem says which is wrong."""
    ada = site.token("ada")
    for changes in ({"notice_version": 9}, {"language": "fr"}, {"purpose": "urn:other:purpose"}):
        refused = site.answer("e1", ada, **changes)
        assert (refused.status_code, refused.json()["code"]) == (403, "notice")
    assert site.answer("bad\u0000id", ada).status_code == 422
    site.rig.service.publish_notice(notice(**notice_body(version=2)))
    assert site.answer("e1", ada).status_code == 403
