"""The demo's sign-in service: an OpenID Connect provider for each school, where a visitor chooses who to be.

Authorization code with PKCE only, codes good once and for a minute, an ID token signed with the school's demo key; for
staff also an access token that says what they may operate. It checks everything a provider must check of its clients,
and asks nobody for a password: it is the demo's, never anybody else's. Sources: OpenID Connect Core 1.0, section 3.1;
RFC 7636; RFC 9068.
"""

import dataclasses
import functools
import hashlib
import json
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from connector.demo.learners import Learner
from connector.identity.files import read_signer
from connector.identity.jws import sign_compact, signing_key
from connector.ui.rendering import static_response
from policies.signing import Signer, encode

_COUNTRY = "DE"
_OF_AGE_SINCE = 1990
_PARENT_BORN = 1980
_CODE_LASTS = timedelta(minutes=1)
_TOKEN_LASTS = timedelta(minutes=10)
_SHOWN = 12
_ASKED = (
    "client_id",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
)
_POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_NAMES = [
    "Ada",
    "Amin",
    "Ben",
    "Carla",
    "Dilan",
    "Elif",
    "Emil",
    "Fatima",
    "Finn",
    "Greta",
    "Hana",
    "Ida",
    "Ivo",
    "Jana",
    "Jonas",
    "Kim",
    "Lea",
    "Leon",
    "Lina",
    "Luca",
    "Maja",
    "Malik",
    "Mia",
    "Nele",
    "Nico",
    "Noor",
    "Olga",
    "Omar",
    "Paul",
    "Pia",
    "Rosa",
    "Sami",
    "Sara",
    "Selin",
    "Sofia",
    "Theo",
    "Tim",
    "Toni",
    "Uma",
    "Vera",
    "Yara",
    "Yusuf",
    "Zoe",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staff:
    """Somebody who operates a school's connector, and with which scopes."""

    subject: str
    name: str
    scope: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Realm:
    """One school at the sign-in service: its learners, or its staff.

    Attributes:
        issuer: what its configuration names; the keys are its demo issuer's.
        client_id, redirect_uri: the school's connector.
        learners: who can be chosen, with their guardians.
        staff: who can be chosen to operate.
        audience: whom an access token is for: the school's participant id.
    """

    slug: str
    name: str
    issuer: str
    client_id: str
    redirect_uri: str
    signer: Signer = dataclasses.field(repr=False)
    learners: Sequence[Learner] = ()
    staff: Sequence[Staff] = ()
    audience: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Code:
    realm: str
    person: str
    nonce: str
    challenge: str
    until: datetime


async def _body(request: Request) -> bytes:
    return await request.body()


def create_sign_in(realms: Sequence[Realm], now: Callable[[], datetime]) -> FastAPI:
    """Return the service of several schools, each below ``/SLUG``."""
    known = {realm.slug: realm for realm in realms}
    codes: dict[str, _Code] = {}
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/pages.css")
    def style() -> Response:
        """Look like the pages."""
        return static_response("pages.css")

    @app.get("/{slug}/authorize")
    def authorize(request: Request, slug: str, q: str = "") -> Response:
        """Show who can be chosen."""
        realm, asked = known.get(slug), _asked(request)
        problem = _problem(realm, asked)
        if realm is None or problem:
            return HTMLResponse(f"<h1>{problem or 'No such school'}</h1>", 400)
        shown = _template().render(realm=realm, asked=asked, wanted=q, groups=_groups(realm, asked, q))
        return HTMLResponse(shown, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})

    @app.get("/{slug}/choose")
    def choose(request: Request, slug: str, person: str) -> Response:
        """Send the browser back with a code for the chosen person."""
        realm, asked = known.get(slug), _asked(request)
        if realm is None or _problem(realm, asked) or _claims(realm, person) is None:
            return HTMLResponse("<h1>Nobody was chosen</h1>", 400)
        code = secrets.token_urlsafe(24)
        codes[code] = _Code(
            realm=slug,
            person=person,
            nonce=asked["nonce"],
            challenge=asked["code_challenge"],
            until=now() + _CODE_LASTS,
        )
        answer = urlencode({"code": code, "state": asked["state"], "iss": realm.issuer})
        return RedirectResponse(f"{realm.redirect_uri}?{answer}", 303, {"Cache-Control": "no-store"})

    @app.post("/{slug}/token")
    def token(slug: str, body: Annotated[bytes, Depends(_body)]) -> Response:
        """Give the ID token for a code, once."""
        form, realm = dict(parse_qsl(body.decode())), known.get(slug)
        found = codes.pop(form.get("code", ""), None)
        if (
            realm is None
            or found is None
            or found.realm != slug
            or now() >= found.until
            or not _fits(form, realm, found)
        ):
            return JSONResponse({"error": "invalid_grant"}, 400)
        at = int(now().timestamp())
        claims = {
            "iss": realm.issuer,
            "aud": realm.client_id,
            "iat": at,
            "exp": at + int(_TOKEN_LASTS.total_seconds()),
            "nonce": found.nonce,
            **(_claims(realm, found.person) or {}),
        }
        signed = sign_compact(signing_key(realm.signer), realm.signer.kid, "JWT", claims)
        access = _access_token(realm, found.person, at)
        answer = {"access_token": access, "token_type": "Bearer", "id_token": signed}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    return app


def read_realms(path: Path) -> list[Realm]:
    """Return the schools of a configuration: a list with the fields of a realm, its key as a file and a ``kid``."""
    return [
        Realm(
            slug=item["slug"],
            name=item["name"],
            issuer=item["issuer"],
            client_id=item["client_id"],
            redirect_uri=item["redirect_uri"],
            signer=read_signer(Path(item["key"]), item["kid"]),
            learners=[Learner(**one) for one in item.get("learners", [])],
            staff=[Staff(**one) for one in item.get("staff", [])],
            audience=item.get("audience", ""),
        )
        for item in json.loads(path.read_text(encoding="utf-8"))
    ]


def person_name(subject: str) -> str:
    """Return a made-up first name for a made-up learner, always the same one."""
    return _NAMES[hashlib.sha256(subject.encode()).digest()[0] % len(_NAMES)]


def main(arguments: Sequence[str]) -> None:
    """Serve: ``python -m connector.demo.sign_in CONFIGURATION PORT``."""
    import uvicorn  # noqa: PLC0415 - only when it serves

    from connector.foundation import utc_now  # noqa: PLC0415 - the demo's wiring

    app = create_sign_in(read_realms(Path(arguments[0])), utc_now)
    uvicorn.run(app, host="127.0.0.1", port=int(arguments[1]), log_level="warning", access_log=False)


def _asked(request: Request) -> dict[str, str]:
    return {name: request.query_params.get(name, "") for name in _ASKED}


def _problem(realm: Realm | None, asked: Mapping[str, str]) -> str:
    if realm is None:
        return "No such school"
    if (asked["client_id"], asked["redirect_uri"]) != (realm.client_id, realm.redirect_uri):
        return "An unknown client"
    if asked["response_type"] != "code" or asked["code_challenge_method"] != "S256" or not asked["code_challenge"]:
        return "Only the code flow with PKCE"
    return "" if asked["nonce"] and asked["state"] else "A nonce and a state are needed"


def _fits(form: Mapping[str, str], realm: Realm, code: _Code) -> bool:
    challenge = encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
    given = (form.get("grant_type"), form.get("client_id"), form.get("redirect_uri"), challenge)
    return given == ("authorization_code", realm.client_id, realm.redirect_uri, code.challenge)


def _access_token(realm: Realm, person: str, at: int) -> str:
    """Return an access token: of staff one that says what they may do (RFC 9068), of others one that nobody reads."""
    staff = next((one for one in realm.staff if one.subject == person), None)
    if staff is None:
        return secrets.token_urlsafe(24)
    claims = {
        "iss": realm.issuer,
        "sub": staff.subject,
        "aud": realm.audience,
        "client_id": realm.client_id,
        "scope": staff.scope,
        "iat": at,
        "exp": at + int(_TOKEN_LASTS.total_seconds()),
        "jti": secrets.token_urlsafe(12),
    }
    return sign_compact(signing_key(realm.signer), realm.signer.kid, "at+jwt", claims)


def _claims(realm: Realm, person: str) -> dict[str, Any] | None:
    for one in realm.staff:
        if one.subject == person:
            return {"sub": one.subject, "name": one.name}
    wards = [learner for learner in realm.learners if learner.guardian == person]
    if wards:
        named = person_name(wards[0].subject)
        return {
            "sub": person,
            "name": f"Parent of {named}",
            "scope": "guardian",
            "country": _COUNTRY,
            "birth_year": _PARENT_BORN,
            "guardian_of": [
                {**_born(ward), "verification": "school-register", "evidence_ref": "demo"} for ward in wards
            ],
        }
    return next(({**_born(one), "scope": "learner"} for one in realm.learners if one.subject == person), None)


def _born(learner: Learner) -> dict[str, Any]:
    year = _OF_AGE_SINCE if learner.birth_year is None else learner.birth_year
    return {"sub": learner.subject, "name": person_name(learner.subject), "country": _COUNTRY, "birth_year": year}


def _groups(realm: Realm, asked: Mapping[str, str], wanted: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    own = [(one.subject, person_name(one.subject), one.subject, one.birth_year) for one in realm.learners]
    parents = [
        (one.guardian, f"Parent of {person_name(one.subject)}", one.subject, one.birth_year)
        for one in realm.learners
        if one.guardian is not None
    ]
    staff = [(one.subject, one.name, f"may: {one.scope}", None) for one in realm.staff]
    for heading, people in (("Learners", own), ("Parents and guardians", parents), ("Staff", staff)):
        if not people:
            continue
        fitting = [entry for entry in people if wanted.strip().lower() in f"{entry[0]} {entry[1]}".lower()]
        yield (
            heading,
            [
                {
                    "name": name,
                    "remark": f"{subject}{f', born {year}' if year else ''}",
                    "href": f"/{realm.slug}/choose?{urlencode({**asked, 'person': person})}",
                }
                for person, name, subject, year in fitting[:_SHOWN]
            ],
        )


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only where pages are shown

    made = Environment(
        loader=PackageLoader("connector.demo"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return made.get_template("sign_in.html")


if __name__ == "__main__":
    main(sys.argv[1:])
