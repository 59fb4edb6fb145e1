"""The consent API over a real database, for people with tokens of a configured issuer."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey

from connector.http.consents import consent_router
from connector.http.problems import install_problem_handlers
from connector.identity.learners import JwtLearnerVerifier
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from tests.support.consents import NOTICE, PURPOSE, ConsentRig, consent_rig, notice

PARTICIPANT = "did:web:school.example"
ISSUER = "https://login.school.example"
KEY = OKPKey.generate_key("Ed25519", {"kid": "k1"})


@dataclasses.dataclass(kw_only=True)
class ConsentSite:
    """A running consent API."""

    http: TestClient
    rig: ConsentRig

    def token(self, subject: str, scope: str = "learner", key: OKPKey | ECKey = KEY, **claims: Any) -> dict[str, str]:
        """Return the headers of a signed-in person."""
        body = {
            "iss": ISSUER,
            "aud": PARTICIPANT,
            "sub": subject,
            "scope": scope,
            "exp": int((self.rig.clock() + timedelta(minutes=5)).timestamp()),
            "country": "DE",
            "birth_year": 1990,
        }
        algorithm = "Ed25519" if isinstance(key, OKPKey) else "ES256"
        signed = jwt.encode({"alg": algorithm, "kid": key.kid}, body | claims, key, algorithms=[algorithm])
        return {"Authorization": f"Bearer {signed}"}

    def answer(self, event_id: str, headers: dict[str, str], **changes: Any) -> Any:
        """Post an answer."""
        body = {
            "event_id": event_id,
            "decision": "grant",
            "notice_id": NOTICE,
            "notice_version": 1,
            "language": "en",
            "purpose": PURPOSE,
        }
        return self.http.post("/consent/records", json=body | changes, headers=headers)


@pytest.fixture
def consent_site(tmp_path: Path) -> Iterator[ConsentSite]:
    """Give a consent API with one notice."""
    url = f"sqlite:///{tmp_path / 'o.sqlite'}"
    upgrade(url)
    database = Database(url)
    rig = consent_rig(database)
    rig.service.publish_notice(notice())
    app = FastAPI()
    install_problem_handlers(app)
    keys = KeySet([OKPKey.import_key(KEY.as_dict(private=False))])
    verifier = JwtLearnerVerifier(issuer=ISSUER, keys=keys, audience=PARTICIPANT, now=rig.clock)
    app.include_router(consent_router(rig.service, verifier.verify))
    with TestClient(app, raise_server_exceptions=True) as http:
        yield ConsentSite(http=http, rig=rig)
    database.close()
