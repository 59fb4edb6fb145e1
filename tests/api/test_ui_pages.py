"""What the pages' routes refuse and promise, without a browser: sign-in, sessions, forms, words, headers."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from joserfc.jwk import KeySet, OKPKey

from connector.identity.jws import public_jwk
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from connector.ui.my_views import slug
from policies.signing import new_signer
from tests.support.consents import NOTICE, PURPOSE, notice, purpose_body
from tests.support.my_site import Site, make_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give the pages of a school with one notice."""
    url = f"sqlite:///{tmp_path / 'o.sqlite'}"
    upgrade(url)
    database = Database(url)
    made = make_site(database)
    made.rig.service.publish_notice(notice())
    yield made
    database.close()


def test_every_page_is_strict_and_kept_by_nobody(site: Site) -> None:
    """No page may be cached, framed, or load anything of others; learners' pages run no script."""
    site.sign_in("ada")
    for path in (
        "/my",
        "/my/overview",
        f"/my/notices/{slug(NOTICE)}",
        "/my/uses",
        "/my/signed-out",
        "/my/notices/none",
    ):
        headers = site.browser.get(path, follow_redirects=True).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "script-src" not in policy
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_session_cookie_is_out_of_reach(site: Site) -> None:
    """Scripts cannot read it, other sites' forms do not bring it, and it goes nowhere but to these pages."""
    cookie = site.sign_in("ada").headers.get_list("set-cookie")[0]
    assert all(flag in cookie for flag in ("HttpOnly", "SameSite=lax", "Path=/my"))
    assert "ada" not in cookie


def test_a_form_of_nobody_else_is_taken(site: Site) -> None:
    """Without the session's token, with another session's, or from another site, nothing is recorded."""
    site.sign_in("ada")
    fields = site.fields()
    other = site.another()
    other.sign_in("eve")
    stolen = {**fields, "token": other.fields()["token"]}
    assert site.post({**fields, "token": ""}).status_code == 403
    assert site.post(stolen).status_code == 403
    assert site.post(fields, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert site.post(fields, origin="https://evil.example").status_code == 403
    assert site.browser.post("/my/answers", json=fields).status_code == 415
    assert "No answer" not in site.browser.get("/my/overview").text
    assert site.rig.service.count_band(notice().dataset_id, PURPOSE).suppressed
    assert site.post(fields, **{"sec-fetch-site": "same-origin"}).status_code == 303


def test_a_form_sent_twice_says_nothing_twice(site: Site) -> None:
    """A repeat leads to the same receipt; the same form with another answer is refused in words."""
    site.sign_in("ada")
    fields = site.fields()
    first, again = site.post(fields), site.post(fields)
    assert first.headers["location"] == again.headers["location"]
    replayed = site.post({**fields, "decision": "refuse"})
    assert replayed.status_code == 409
    assert "This form was already used for another answer" in replayed.text
    assert "Nothing was changed." in replayed.text


def test_what_ended_meanwhile_is_said_in_words(site: Site) -> None:
    """A notice that expired or changed while it was read takes no answer, and the page says which."""
    site.sign_in("ada")
    fields = site.fields()
    site.rig.service.publish_notice(notice(version=2, purposes=[purpose_body(PURPOSE, retention="P2Y")]))
    changed = site.post(fields)
    assert (changed.status_code, "was changed while you read it" in changed.text) == (409, True)
    until = site.rig.clock().replace(microsecond=0).isoformat()
    site.rig.service.publish_notice(
        notice(version=3, purposes=[purpose_body(PURPOSE, retention="P3Y")], valid_until=until)
    )
    expired = site.post({**fields, "version": "3"})
    assert (expired.status_code, "This notice has expired" in expired.text) == (403, True)


def test_a_changed_notice_asks_again(site: Site) -> None:
    """A yes to what the notice no longer says shows as no longer counting, and can be given again."""
    site.sign_in("ada")
    site.post(site.fields())
    site.rig.service.publish_notice(notice(version=2, purposes=[purpose_body(PURPOSE, retention="P2Y")]))
    assert "No longer counts" in site.browser.get("/my/overview").text
    assert site.post(site.fields()).status_code == 303
    assert "No longer counts" not in site.browser.get("/my/overview").text


@pytest.mark.parametrize(
    ("person", "place", "words"),
    [
        ("kim", "0", "too young to say yes alone"),
        ("dad", "1", "is of age now and answers alone"),
        ("mum", "7", "not one that your account may answer for"),
    ],
)
def test_who_may_not_answer_is_told_why(site: Site, person: str, place: str, words: str) -> None:
    """A minor alone, a guardian of an adult, a stranger's child: refused even where no button was offered."""
    site.sign_in("ada")
    fields = site.fields()
    someone = site.another()
    someone.sign_in(person)
    token = re.search(r'name="token" value="(\w+)"', someone.browser.get("/my/overview").text)
    assert token
    answer = someone.post({**fields, "token": token[1], "for": place})
    assert answer.status_code in {403, 404}
    assert words in answer.text


def test_another_persons_record_is_nothing_here(site: Site) -> None:
    """A receipt, its file and its withdrawal of somebody else look like ones that do not exist."""
    site.sign_in("ada")
    record = urlsplit(site.post(site.fields()).headers["location"]).path.rpartition("/")[2]
    eve = site.another()
    eve.sign_in("eve")
    for path in (f"/my/receipts/{record}", f"/my/receipts/{record}/download", f"/my/consents/{record}/withdraw"):
        theirs, nobodys = eve.browser.get(path), eve.browser.get(path.replace(record, "urn:uuid:none"))
        assert (theirs.status_code, nobodys.status_code) == (404, 404)
        assert "There is nothing here" in theirs.text


def test_a_session_ends(site: Site) -> None:
    """After half an hour without use, when its cookie is changed, and at once when signed out: even a kept copy."""
    site.sign_in("ada")
    name = site.area.sessions.cookie
    kept = site.browser.cookies[name]
    assert site.area.sessions.find(kept) is not None
    assert site.area.sessions.find(kept[:-2] + ("AA" if kept[-2:] != "AA" else "BB")) is None
    token = site.fields()["token"]
    assert site.post({"token": token}, "/my/sign-out").headers["location"] == "/my/signed-out"
    assert site.area.sessions.find(kept) is None
    site.sign_in("ada")
    fresh = site.browser.cookies[name]
    site.rig.clock.advance(minutes=31)
    assert site.area.sessions.find(fresh) is None
    assert site.browser.get("/my/overview").headers["location"] == "/my"


def test_a_sign_in_belongs_to_one_browser_and_counts_once(site: Site) -> None:
    """An answer in another browser, with another state, from another issuer, or used before, signs nobody in."""
    answer = site.answer_for("ada")
    assert site.another().browser.get(answer).status_code == 403
    state = parse_qs(urlsplit(answer).query)["state"][0]
    assert site.browser.get(answer.replace(state, "x" * len(state))).status_code == 403
    assert site.browser.get(answer.replace("lms.school", "lms.other")).status_code == 502
    assert site.browser.get(f"/my/signed-in?state={state}&error=access_denied").status_code == 403
    assert site.browser.get(answer).headers["location"] == "/my/overview"
    assert site.browser.get(answer).status_code == 403


def test_a_statement_signed_by_another_is_not_believed(site: Site) -> None:
    """A token of another key, for another client or with another nonce does not verify."""
    forged = make_site_with_key(site)
    for changes in ({"keys": forged.provider.keys}, {"client_id": "other"}):
        begun = site.provider.begin()
        query = dict(parse_qsl(urlsplit(begun.url).query))
        chosen = site.login.get("/school/choose", params={**query, "person": "ada"}, follow_redirects=False)
        answer = dict(parse_qsl(urlsplit(chosen.headers["location"]).query))
        client = dataclasses.replace(site.provider, **changes)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="sign-in service"):
            client.finish(begun.kept(), answer)
    begun = site.provider.begin()
    query = dict(parse_qsl(urlsplit(begun.url).query))
    chosen = site.login.get("/school/choose", params={**query, "person": "ada"}, follow_redirects=False)
    answer = dict(parse_qsl(urlsplit(chosen.headers["location"]).query))
    with pytest.raises(Exception, match="does not verify"):
        site.provider.finish({**begun.kept(), "nonce": "other"}, answer)


def make_site_with_key(site: Site) -> Site:
    """Return a site whose provider signs with another key."""
    signer = new_signer("k1")
    keys = KeySet([OKPKey.import_key({**public_jwk(signer.public_key), "kid": "k1"})])
    return dataclasses.replace(site, provider=dataclasses.replace(site.provider, keys=keys))
