"""Who belongs to the data space: an authority's signed membership credentials.

A membership credential is a compact JWS of the data-space authority over a participant's id, name, address, roles and
public key (``cnf``, RFC 7800). Nothing is looked up to check one: the authority's public key is in our own
configuration. A participant asks for it with a membership request, signed with the key it asks to be bound.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit

from connector.identity.errors import UnauthorizedError
from connector.identity.jws import peek, public_jwk, sign_compact, signing_key, verification_key, verify_compact
from policies.canonical import canonical_json
from policies.signing import Signer, encode

MEMBERSHIP = "orchard-membership+jwt"
MEMBERSHIP_REQUEST = "orchard-membership-request+jwt"
ROLES = ("ai-provider", "data-provider")
SKEW = timedelta(seconds=60)

Clock: TypeAlias = Callable[[], datetime]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerIdentity:
    """A participant as its membership credential names it.

    ``address`` is its public base URL without a trailing slash, ``public_key`` its raw Ed25519 key in base64url.
    """

    participant_id: str
    name: str
    organisation: str
    address: str
    public_key: str
    roles: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Authority:
    """The data-space authority as participants know it: its id and its raw Ed25519 public key, base64url."""

    id: str
    public_key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Membership:
    """A verified membership credential: whom it names, and from when until when (aware UTC) it holds."""

    identity: PeerIdentity
    issued: datetime
    expires: datetime
    credential: str


def did_web(address: str) -> str:
    """Return the did:web id of a participant reached at ``address`` (did:web 1.0, section 3: the port is escaped)."""
    parts = urlsplit(address)
    path = parts.path.strip("/").replace("/", ":")
    return "did:web:" + quote(parts.netloc, safe="") + (f":{path}" if path else "")


def authority_id(public_key: str) -> str:
    """Return the id of an authority: the thumbprint URI of its key (RFC 7638, RFC 9278)."""
    # The canonical form of the required JWK members is exactly the input that RFC 7638 hashes.
    thumbprint = hashlib.sha256(canonical_json(public_jwk(public_key))).digest()
    return "urn:ietf:params:oauth:jwk-thumbprint:sha-256:" + encode(thumbprint)


def request_membership(signer: Signer, identity: PeerIdentity, now: datetime) -> str:
    """Return a membership request: the identity as wished, signed with the key to be bound to it."""
    claims = _identity_claims(identity) | {"iat": int(now.timestamp())}
    return sign_compact(signing_key(signer), identity.participant_id, MEMBERSHIP_REQUEST, claims)


def read_request(request: str) -> PeerIdentity:
    """Return what a membership request asks for once it is shown to be signed with the key it names.

    Raises:
        UnauthorizedError: malformed, or the asker does not hold the key.
    """
    identity = _identity(peek(request, MEMBERSHIP_REQUEST))
    return _identity(verify_compact(request, verification_key(identity.public_key), MEMBERSHIP_REQUEST))


def issue_membership(authority: Signer, identity: PeerIdentity, now: datetime, *, valid: timedelta) -> str:
    """Return a membership credential for ``identity``, signed by the authority."""
    claims = _identity_claims(identity) | {
        "iss": authority.kid,
        "iat": int(now.timestamp()),
        "exp": int((now + valid).timestamp()),
    }
    return sign_compact(signing_key(authority), authority.kid, MEMBERSHIP, claims)


def verify_membership(credential: str, authority: Authority, now: datetime) -> Membership:
    """Return whom a membership credential names, once the authority's signature and the dates hold.

    Raises:
        UnauthorizedError: not the authority's, malformed, expired or not yet valid.
    """
    claims = verify_compact(credential, verification_key(authority.public_key), MEMBERSHIP)
    if claims.get("iss") != authority.id:
        raise UnauthorizedError("unknown-authority", "the membership is issued by another authority")
    issued, expires = instant(claims, "iat", now), instant(claims, "exp", now)
    if issued > now + SKEW:
        raise UnauthorizedError("membership-not-yet-valid", "the membership is not valid yet")
    if expires <= now - SKEW:
        raise UnauthorizedError("membership-expired", "the membership has expired; ask the authority for a new one")
    return Membership(identity=_identity(claims), issued=issued, expires=expires, credential=credential)


def instant(claims: dict[str, Any], name: str, now: datetime) -> datetime:
    """Return a NumericDate claim as an aware UTC time.

    Raises:
        UnauthorizedError: the claim is missing or no time.
    """
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnauthorizedError("malformed-token", f"the token lacks a valid {name}")
    try:
        return datetime.fromtimestamp(value, tz=now.tzinfo)
    except (OverflowError, ValueError, OSError) as error:
        raise UnauthorizedError("malformed-token", f"the token lacks a valid {name}") from error


def _identity_claims(identity: PeerIdentity) -> dict[str, Any]:
    return {
        "sub": identity.participant_id,
        "name": identity.name,
        "organisation": identity.organisation,
        "address": identity.address,
        "roles": list(identity.roles),
        "cnf": {"jwk": public_jwk(identity.public_key)},
    }


def _identity(claims: dict[str, Any]) -> PeerIdentity:
    texts = {key: claims.get(key) for key in ("sub", "name", "organisation", "address")}
    confirmation, roles = claims.get("cnf"), claims.get("roles")
    jwk = confirmation.get("jwk") if isinstance(confirmation, dict) else None
    key = jwk.get("x") if isinstance(jwk, dict) and jwk.get("crv") == "Ed25519" else None
    if (
        not isinstance(key, str)
        or not isinstance(roles, list)
        or not all(isinstance(text, str) and text for text in texts.values())
    ):
        raise UnauthorizedError("malformed-membership", "the membership lacks a required claim")
    if not roles or not all(role in ROLES for role in roles):
        raise UnauthorizedError("malformed-membership", "the membership names an unknown role")
    address = str(texts["address"])
    if urlsplit(address).scheme not in {"http", "https"} or address.endswith("/"):
        raise UnauthorizedError("malformed-membership", "the membership's address is not a base URL")
    return PeerIdentity(
        participant_id=str(texts["sub"]),
        name=str(texts["name"]),
        organisation=str(texts["organisation"]),
        address=address,
        public_key=key,
        roles=tuple(roles),
    )
