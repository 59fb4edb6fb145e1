"""Bad input about consent, met twice: as problem details on the API, and in the learner's words on the pages."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from httpx2 import Response

from connector.storage.database import Database
from connector.storage.migrate import upgrade
from policies.signing import new_signer
from tests.support.consent_site import ConsentSite, consent_site
from tests.support.consents import NOTICE, PURPOSE, notice, purpose_body
from tests.support.my_site import Site, make_site

__all__ = ["consent_site"]

TEN_LANGUAGES = "pl, cs;q=0.9, sk;q=0.9, hu;q=0.8, ro;q=0.8, bg;q=0.7, el;q=0.6, fi;q=0.5, sv;q=0.4, et;q=0.3"
WARD = {"sub": "kim", "country": "DE", "birth_year": 1999, "verification": "school-register"}


@pytest.fixture
def my_site(tmp_path: Path) -> Iterator[Site]:
    """Give the pages of a school with one notice."""
    url = f"sqlite:///{tmp_path / 'o.sqlite'}"
    upgrade(url)
    database = Database(url)
    made = make_site(database)
    made.rig.service.publish_notice(notice())
    yield made
    database.close()


def expire(site: ConsentSite | Site) -> None:
    """Let the notice run out."""
    until = (site.rig.clock() - timedelta(seconds=1)).isoformat()
    site.rig.service.publish_notice(notice(version=2, valid_until=until))


def forged(receipt: dict[str, Any]) -> dict[str, Any]:
    """Return a receipt with one byte changed."""
    changed = copy.deepcopy(receipt)
    changed["payload"]["record"]["hasProcess"]["hasPurpose"] = PURPOSE[:-1] + "G"
    return changed


# On the API


def api_expired(site: ConsentSite) -> Response:
    expire(site)
    return site.answer("e1", site.token("ada"), notice_version=2)


def api_forged(site: ConsentSite) -> Response:
    receipt = site.answer("e1", site.token("ada")).json()["receipt"]
    assert site.http.post("/consent/receipts/verify", json=receipt).json()["state"] == "granted"
    return site.http.post("/consent/receipts/verify", json=forged(receipt))


def api_replayed(site: ConsentSite) -> Response:
    site.answer("e1", site.token("ada"))
    return site.answer("e1", site.token("ada"), decision="refuse")


def api_guardian_of_an_adult(site: ConsentSite) -> Response:
    return site.answer("e1", site.token("mum", "guardian", guardian_of=[WARD]), subject="kim")


def api_unknown_subject(site: ConsentSite) -> Response:
    return site.answer("e1", site.token("mum", "guardian", guardian_of=[WARD]), subject="somebody")


def api_other_provider(site: ConsentSite) -> Response:
    return site.answer("e1", site.token("ada"), notice_id="urn:notice:another-school")


def api_clock(site: ConsentSite) -> Response:
    ahead = int((site.rig.clock() + timedelta(minutes=10)).timestamp())
    return site.answer("e1", site.token("ada", nbf=ahead))


def api_language(site: ConsentSite) -> Response:
    shown = site.http.get(f"/consent/notices/{NOTICE}", headers={"Accept-Language": TEN_LANGUAGES})
    assert (shown.status_code, shown.headers["content-language"]) == (200, "en")
    return site.answer("e1", site.token("ada"), language="pl")


@pytest.mark.parametrize(
    ("meet", "status", "code", "words"),
    [
        (api_expired, 403, "notice", "this notice has expired"),
        (api_forged, 422, "evidence", "this receipt was changed, or was not issued with that key"),
        (api_replayed, 409, "consent-replayed", "this expression id was used for something else"),
        (api_guardian_of_an_adult, 403, "guardian-not-allowed", "the learner is an adult and answers alone"),
        (api_unknown_subject, 403, "guardian-not-allowed", "nobody has confirmed that you answer for this learner"),
        (api_other_provider, 403, "notice", "there is no such notice here"),
        (api_clock, 401, "token-not-yet-valid", "the token is not valid yet"),
        (api_language, 403, "notice", "not available in this language: de, en"),
    ],
)
def test_the_api_refuses_with_a_problem_that_says_what_is_wrong(
    consent_site: ConsentSite, meet: Callable[[ConsentSite], Response], status: int, code: str, words: str
) -> None:
    """A stable code, a sentence, and nothing of what was sent; nothing is recorded."""
    before = consent_site.rig.service.count_band(notice().dataset_id, PURPOSE)
    refused = meet(consent_site)
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert (refused.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"].endswith(f"/{code}")
    assert words in problem["detail"]
    assert not re.search(r"ada|mum|kim|somebody|another-school", refused.text)
    assert consent_site.rig.service.count_band(notice().dataset_id, PURPOSE) == before


# On the pages

Meeting: TypeAlias = Callable[[Site], Response]


def page_expired(site: Site) -> Response:
    site.sign_in("ada")
    fields = site.fields()
    expire(site)
    return site.post({**fields, "version": "2"})


def page_forged(site: Site) -> Response:
    site.sign_in("ada")
    record = site.post(site.fields()).headers["location"].partition("?")[0]
    receipt = site.browser.get(f"{record}/download").json()
    holds = site.post({"receipt": json.dumps(receipt)}, "/my/check")
    assert (holds.status_code, "is unchanged" in holds.text) == (200, True)
    stranger = {**receipt, **new_signer("did:web:evil").sign("consent-receipt", receipt["payload"])}
    for wrong in (stranger, 7, "receipt", {"payload": []}):
        assert site.post({"receipt": json.dumps(wrong)}, "/my/check").status_code == 422
    return site.post({"receipt": json.dumps(forged(receipt))}, "/my/check")


def page_replayed(site: Site) -> Response:
    site.sign_in("ada")
    fields = site.fields()
    site.post(fields)
    return site.post({**fields, "decision": "refuse"})


def as_somebody_else(site: Site, person: str, place: str) -> Response:
    site.sign_in("ada")
    fields = site.fields()
    other = site.another()
    other.sign_in(person)
    token = re.search(r'name="token" value="(\w+)"', other.browser.get("/my/overview").text)
    assert token
    return other.post({**fields, "token": token[1], "for": place})


def page_guardian_of_an_adult(site: Site) -> Response:
    return as_somebody_else(site, "dad", "1")


def page_unknown_subject(site: Site) -> Response:
    return as_somebody_else(site, "mum", "7")


def page_other_provider(site: Site) -> Response:
    site.sign_in("ada")
    return site.post({**site.fields(), "notice": "0" * 16})


def page_clock(site: Site) -> Response:
    answer = site.answer_for("ada")
    # The sign-in service's token was good for ten minutes by its clock; ours is a quarter of an hour ahead of it.
    login, now = site.login, site.rig.clock
    kept = site.provider.exchange

    def slow(url: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        found = kept(url, headers, body)
        now.advance(minutes=15)
        return found

    object.__setattr__(site.provider, "exchange", slow)
    assert login is site.login
    return site.browser.get(answer)


def page_language(site: Site) -> Response:
    site.sign_in("ada")
    site.browser.headers["accept-language"] = TEN_LANGUAGES
    shown = site.browser.get("/my/overview").text
    assert '<html lang="en">' in shown
    return site.post({**site.fields(), "language": "pl"})


@pytest.mark.parametrize(
    ("meet", "status", "words"),
    [
        (page_expired, 403, "This notice has expired, so the answer could not be taken."),
        (page_forged, 422, "This is no receipt of ours, or it was changed after we issued it."),
        (page_replayed, 409, "This form was already used for another answer"),
        (page_guardian_of_an_adult, 403, "The learner is of age now and answers alone."),
        (page_unknown_subject, 404, "not one that your account may answer for"),
        (page_other_provider, 404, "There is nothing here, or it is not yours."),
        (page_clock, 502, "The sign-in service answered in a way that cannot be trusted"),
        (page_language, 403, "This notice does not exist in the language of the form."),
    ],
)
def test_the_page_refuses_in_the_learners_words(my_site: Site, meet: Meeting, status: int, words: str) -> None:
    """A page with a sentence that says what happened and that nothing was changed; no code, no trace, no id."""
    refused = meet(my_site)
    assert refused.status_code == status
    assert refused.headers["content-type"].startswith("text/html")
    assert words in refused.text
    assert refused.request.method == "GET" or "Nothing was changed." in refused.text
    assert not re.search(r"Traceback|urn:uuid|consent-|Error", re.sub(r'value="[^"]*"', "", refused.text))


def test_a_notice_that_lacks_ten_languages_is_shown_in_its_own_and_says_so(my_site: Site) -> None:
    """A reader of languages that the notice does not have reads it in its default one, marked, and can answer."""
    polish = {"pl": {"title": "Twoje odpowiedzi", "short": "s", "full": "f"}}
    only = notice(version=2, texts=polish, default_language="pl", purposes=[purpose_body(PURPOSE)])
    my_site.rig.service.publish_notice(only)
    my_site.sign_in("ada")
    fields = my_site.fields()
    assert fields["language"] == "pl"
    page = my_site.browser.get("/my/overview").text
    assert '<h3 lang="pl">Twoje odpowiedzi</h3>' in page
    assert my_site.post(fields).status_code == 303
