"""The learners' pages over a real database and a real sign-in service, with one browser, without a server."""

import dataclasses
import re
from urllib.parse import parse_qsl, urlsplit

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from joserfc.jwk import KeySet, OKPKey

from connector.demo.learners import Learner
from connector.demo.sign_in import Realm, create_sign_in
from connector.identity.jws import public_jwk
from connector.identity.oidc import OidcClient
from connector.identity.sessions import Seal, Sessions, session_key
from connector.storage.database import Database
from connector.ui.my import MyPages, my_router
from connector.ui.my_sign_in import my_sign_in_router
from connector.ui.my_views import slug
from connector.ui.visits import Area
from policies.signing import Signer, new_signer
from tests.support.consents import NOTICE, ConsentRig, consent_rig

ISSUER, CLIENT = "https://lms.school.example", "orchard"
HERE, THERE = "http://school.test", "http://login.test"
PEOPLE = [
    Learner(subject="ada", birth_year=1990),
    Learner(subject="kim", birth_year=2015, guardian="mum"),
    Learner(subject="max", birth_year=2000, guardian="dad"),
    Learner(subject="eve", birth_year=1991),
]


@dataclasses.dataclass(kw_only=True)
class Site:
    """The pages, the sign-in service, and one browser."""

    app: FastAPI
    browser: TestClient
    login: TestClient
    rig: ConsentRig
    provider: OidcClient
    area: Area

    def another(self) -> "Site":
        """Return the same site in another browser."""
        browser = TestClient(self.app, base_url=HERE, follow_redirects=False, raise_server_exceptions=True)
        return dataclasses.replace(self, browser=browser)

    def answer_for(self, person: str) -> str:
        """Begin a sign-in and choose somebody; return the address that the browser is sent back to."""
        begun = self.browser.get("/my/sign-in").headers["location"]
        query = dict(parse_qsl(urlsplit(begun).query))
        assert self.login.get("/school/authorize", params=query).status_code == 200
        chosen = self.login.get("/school/choose", params={**query, "person": person}, follow_redirects=False)
        return str(chosen.headers["location"])

    def sign_in(self, person: str) -> Response:
        """Sign in as somebody."""
        return self.browser.get(self.answer_for(person))

    def fields(self, path: str | None = None) -> dict[str, str]:
        """Return the hidden fields of the first form of a notice."""
        text = self.browser.get(path or f"/my/notices/{slug(NOTICE)}").text
        form = text[text.index('action="/my/answers"') :].partition("</form>")[0]
        return dict(re.findall(r'name="(\w+)" value="([^"]*)"', form)) | {"decision": "grant"}

    def post(self, fields: dict[str, str], path: str = "/my/answers", **headers: str) -> Response:
        """Send a form."""
        return self.browser.post(path, data=fields, headers=headers)


def make_site(database: Database, signer: Signer | None = None) -> Site:
    """Put the pages together over a real database and a real sign-in service."""
    rig = consent_rig(database)
    key = signer or new_signer("k1")
    realm = Realm(
        slug="school",
        name="School",
        issuer=ISSUER,
        client_id=CLIENT,
        redirect_uri=f"{HERE}/my/signed-in",
        signer=dataclasses.replace(key, kid="k1"),
        learners=PEOPLE,
    )
    login = TestClient(create_sign_in([realm], rig.clock), base_url=THERE)
    provider = OidcClient(
        issuer=ISSUER,
        authorization_endpoint=f"{THERE}/school/authorize",
        token_endpoint=f"{THERE}/school/token",
        keys=KeySet([OKPKey.import_key({**public_jwk(key.public_key), "kid": "k1"})]),
        client_id=CLIENT,
        redirect_url=f"{HERE}/my/signed-in",
        exchange=lambda url, headers, body: (
            (answer := login.post(url, headers=dict(headers), content=body)).status_code,
            answer.content,
        ),
        now=rig.clock,
    )
    seal = Seal(session_key(rig.signer), rig.clock)
    area = Area(path="/my", participant="School", sessions=Sessions(seal, "orchard-my-x", rig.clock), secure=False)
    app = FastAPI()
    app.include_router(my_sign_in_router(area, seal, provider, rig.signer.public_key))
    app.include_router(my_router(MyPages(area=area, consents=rig.service, name_of=lambda name: name)))
    browser = TestClient(app, base_url=HERE, follow_redirects=False, raise_server_exceptions=True)
    return Site(app=app, browser=browser, login=login, rig=rig, provider=provider, area=area)
