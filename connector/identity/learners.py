"""Who a learner, a guardian or an institution's system is: bearer tokens of the configured OIDC issuer.

Claims we read beside the registered ones: ``scope`` (``learner``, ``guardian``, ``consent:manage``), ``country``,
``birth_year`` or ``birthdate`` (OpenID Connect Core, section 5.1), and for a guardian ``guardian_of``: a list of
``{sub, country, birth_year | birthdate, verification, evidence_ref?}``.
"""

import dataclasses
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from connector.identity.errors import ForbiddenError, UnauthorizedError
from connector.identity.membership import SKEW, Clock, instant
from connector.identity.operators import read_key_set
from connector.identity.tokens import bearer
from policies.ages import Person
from policies.people import Caller, Ward

LEARNER_SCOPES = frozenset({"learner", "guardian", "consent:manage"})
_ALGORITHMS = ["ES256", "Ed25519", "RS256"]
_MAX_WARDS = 20
_MAX_TEXT = 500
_YEARS = range(1900, 2101)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerIdentity:
    """An authenticated person or system at the consent endpoints.

    Attributes:
        subject: the person's id at the source (the token's ``sub``).
        scopes: what the token allows.
        birth_year, birth_date, country: what the issuer says about their age; None when it says nothing.
        guardian_of: the children they answer for.
    """

    subject: str
    scopes: frozenset[str]
    country: str | None = None
    birth_year: int | None = None
    birth_date: date | None = None
    guardian_of: tuple[Ward, ...] = ()

    def require(self, *scopes: str) -> None:
        """Raise ForbiddenError unless the token has at least one of these scopes."""
        if not self.scopes & set(scopes):
            raise ForbiddenError("this needs the scope " + " or ".join(f"'{scope}'" for scope in scopes))

    def caller(self) -> Caller:
        """Return the person as the consent service sees them; wards only count with the guardian scope."""
        return Caller(
            subject=self.subject,
            person=_person(self.country, self.birth_year, self.birth_date),
            wards=self.guardian_of if "guardian" in self.scopes else (),
        )


class JwtLearnerVerifier:
    """Checks bearer tokens of one issuer against a key set that is configured, never fetched. Safe between threads."""

    def __init__(self, *, issuer: str, keys: KeySet, audience: str, now: Clock) -> None:
        """Accept tokens of ``issuer`` for ``audience`` (our participant id), signed with one of ``keys``."""
        self._issuer = issuer
        self._keys = keys
        self._audience = audience
        self._now = now

    @classmethod
    def from_file(cls, *, issuer: str, jwks: Path, audience: str, now: Clock) -> "JwtLearnerVerifier":
        """Read the key set from a JWKS file.

        Raises:
            IdentityFileError: the file cannot be read or is no key set.
        """
        return cls(issuer=issuer, keys=read_key_set(jwks), audience=audience, now=now)

    def verify(self, header: str | None) -> LearnerIdentity:
        """Return the person behind an ``Authorization`` header.

        Raises:
            UnauthorizedError: no token, or none that we accept.
        """
        return learner_identity(self._claims(bearer(header)))

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            claims = dict(jwt.decode(token, self._keys, algorithms=_ALGORITHMS).claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise UnauthorizedError("bad-signature", "the token does not verify") from error
        now = self._now()
        audience = claims.get("aud")
        if claims.get("iss") != self._issuer:
            raise UnauthorizedError("wrong-issuer", "the token is issued by another issuer")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise UnauthorizedError("wrong-audience", "the token is meant for another service")
        if instant(claims, "exp", now) <= now - SKEW:
            raise UnauthorizedError("token-expired", "the token has expired; please sign in again")
        if "nbf" in claims and instant(claims, "nbf", now) > now + SKEW:
            raise UnauthorizedError("token-not-yet-valid", "the token is not valid yet")
        return claims


def learner_identity(claims: Mapping[str, Any], scopes: frozenset[str] | None = None) -> LearnerIdentity:
    """Return the person that verified claims speak of; ``scopes`` are those of the claim ``scope`` when not given.

    Raises:
        UnauthorizedError: the claims name no subject, or are malformed.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_TEXT:
        raise UnauthorizedError("malformed-token", "the token names no subject")
    given = frozenset(str(claims.get("scope", "")).split()) if scopes is None else scopes
    return LearnerIdentity(
        subject=subject,
        scopes=given & LEARNER_SCOPES,
        country=_country(claims),
        birth_year=_birth_year(claims),
        birth_date=_birth_date(claims),
        guardian_of=_wards(claims.get("guardian_of", [])),
    )


def _wards(value: object) -> tuple[Ward, ...]:
    if not isinstance(value, list) or len(value) > _MAX_WARDS:
        raise UnauthorizedError("malformed-token", f"guardian_of is a list of at most {_MAX_WARDS} children")
    return tuple(_ward(item) for item in value)


def _ward(item: object) -> Ward:
    if not isinstance(item, Mapping) or not isinstance(item.get("sub"), str) or not item["sub"]:
        raise UnauthorizedError("malformed-token", "each entry of guardian_of names a child by sub")
    person = _person(_country(item), _birth_year(item), _birth_date(item))
    if person is None:
        raise UnauthorizedError(
            "malformed-token", "each entry of guardian_of has a country and a year or date of birth"
        )
    return Ward(
        subject=item["sub"],
        person=person,
        verification=str(item.get("verification", ""))[:_MAX_TEXT],
        evidence_ref=str(item.get("evidence_ref", ""))[:_MAX_TEXT],
    )


def _person(country: str | None, birth_year: int | None, birth_date: date | None) -> Person | None:
    if country is None or (birth_year is None and birth_date is None):
        return None
    return Person(country=country, birth_year=birth_year, birth_date=birth_date)


def _country(claims: Mapping[str, Any]) -> str | None:
    value = claims.get("country")
    return value.upper() if isinstance(value, str) and len(value) == 2 and value.isalpha() else None  # noqa: PLR2004 - ISO 3166


def _birth_year(claims: Mapping[str, Any]) -> int | None:
    value = claims.get("birth_year")
    return value if isinstance(value, int) and not isinstance(value, bool) and value in _YEARS else None


def _birth_date(claims: Mapping[str, Any]) -> date | None:
    try:
        value = date.fromisoformat(str(claims.get("birthdate", "")))
    except ValueError:
        return None
    return value if value.year in _YEARS else None
