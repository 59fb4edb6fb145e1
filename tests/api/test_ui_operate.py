"""Operators' pages as routes of a whole participant: who gets in, what their scopes allow, and what others see."""

import re
from datetime import UTC, datetime, timedelta

from joserfc import jwt
from joserfc.jwk import OKPKey

from connector.identity.sessions import Seal, Sessions, session_key
from tests.support.participants import Participant, Space

_COOKIE = re.compile(r"(orchard-operate-[0-9a-f]{8})=([^;]+)")


def _sign_in(north: Participant) -> None:
    token = north.operator["authorization"].removeprefix("Bearer ")
    answer = north.client.post("/operate/sign-in", data={"token": token}, follow_redirects=False)
    assert answer.headers["location"] == "/operate/board"


def test_an_operator_signs_in_with_the_token_once(data_space: Space) -> None:
    """The token becomes a session and is not in it; every page opens; signing out closes them."""
    north = data_space.add("north", 8141)
    assert north.client.get("/operate/board", follow_redirects=False).headers["location"] == "/operate"
    refused = north.client.post("/operate/sign-in", data={"token": "guess"})
    assert (refused.status_code, "set-cookie" in refused.headers) == (403, False)
    _sign_in(north)
    for page in ("board", "plans", "jobs", "notices", "policies", "duties", "decisions", "webhooks", "stuck"):
        answer = north.client.get(f"/operate/{page}")
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
    form = north.client.get("/operate/board").text
    token = re.search(r'name="token" value="(\w+)"', form)
    assert token
    north.client.post("/operate/sign-out", data={"token": token[1]})
    assert north.client.get("/operate/board", follow_redirects=False).headers["location"] == "/operate"


def test_who_may_only_read_decides_nothing(data_space: Space) -> None:
    """A session without the scope ``write`` sees the plans and cannot decide about one."""
    north = data_space.add("north", 8142)
    _sign_in(north)
    name = next(cookie for cookie in north.client.cookies if cookie.startswith("orchard-operate"))
    sessions = Sessions(Seal(session_key(north.foundation.signer), north.foundation.now), name, north.foundation.now)
    reader = sessions.text(sessions.begin({"name": "reader", "scopes": ["read"]}))
    north.client.cookies.clear()
    headers = {"cookie": f"{name}={reader}"}
    page = north.client.get("/operate/plans", headers=headers)
    token = re.search(r'name="token" value="(\w+)"', page.text)
    assert token
    form = {"token": token[1], "decision": "approve", "digest": "a" * 64, "agreement": "urn:uuid:a"}
    assert north.client.post("/operate/plans", data=form, headers=headers).status_code == 403


def test_a_learners_session_opens_no_operators_page(data_space: Space) -> None:
    """A cookie sealed for one area does not open another, whatever it is called."""
    north = data_space.add("north", 8143)
    _sign_in(north)
    name = next(cookie for cookie in north.client.cookies if cookie.startswith("orchard-operate"))
    mine = name.replace("operate", "my")
    sessions = Sessions(Seal(session_key(north.foundation.signer), north.foundation.now), mine, north.foundation.now)
    text = sessions.text(sessions.begin({"sub": "ada", "name": "x", "scopes": ["admin", "read", "write"]}))
    north.client.cookies.clear()
    answer = north.client.get("/operate/board", headers={"cookie": f"{name}={text}"}, follow_redirects=False)
    assert answer.headers["location"] == "/operate"


def test_without_a_provider_the_welcome_says_so(data_space: Space) -> None:
    """A participant whose operator has configured no sign-in tells learners whom to ask."""
    north = data_space.add("north", 8144)
    assert "Signing in is not set up" in north.client.get("/my").text
    assert north.client.get("/my/sign-in").status_code == 404


def test_pages_are_not_in_the_published_interface(data_space: Space) -> None:
    """The OpenAPI of the app names no page, and static files are only those we ship."""
    north = data_space.add("north", 8145)
    assert not [path for path in north.app.openapi()["paths"] if path.startswith(("/my", "/operate", "/ui"))]
    assert north.client.get("/ui/x/orchard.toml").status_code == 404
    assert north.client.get("/ui/x/pages.css").status_code == 200


def test_an_operators_own_access_token_is_no_page_session(data_space: Space) -> None:
    """A bearer token in a header opens no page: pages know sessions only."""
    north = data_space.add("north", 8146)
    key = OKPKey.generate_key("Ed25519")
    exp = int((datetime.now(UTC) + timedelta(minutes=5)).timestamp())
    foreign = jwt.encode({"alg": "Ed25519"}, {"sub": "x", "exp": exp}, key, algorithms=["Ed25519"])
    for header in (north.operator, {"authorization": f"Bearer {foreign}"}):
        assert north.client.get("/operate/board", headers=header, follow_redirects=False).status_code == 303
