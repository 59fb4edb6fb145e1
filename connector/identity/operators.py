"""Who may operate this participant: the static token of its token file, or an OIDC issuer's access token (RFC 9068)."""

import dataclasses
import hmac
import json
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from connector.identity.errors import ForbiddenError, IdentityFileError, UnauthorizedError
from connector.identity.membership import SKEW, Clock, instant
from connector.identity.tokens import bearer

SCOPES = frozenset({"read", "write", "admin", "audit"})
_ALGORITHMS = ["RS256", "ES256", "Ed25519"]
_IMPLIED = {"admin": frozenset({"read", "write"}), "write": frozenset({"read"})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorIdentity:
    """An operator: a name for the audit log, and scopes with those they imply (admin: write, write: read)."""

    name: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise ForbiddenError unless the operator holds ``scope``."""
        if scope not in self.scopes:
            raise ForbiddenError(f"this needs the scope '{scope}'")


class OperatorVerifier:
    """Checks operators' bearer tokens. Safe to share between threads."""

    def __init__(
        self, *, participant_id: str, token: str | None, issuer: str | None, jwks: Path | None, now: Clock
    ) -> None:
        """Accept the static ``token`` (every scope), and access tokens of ``issuer`` whose keys are in ``jwks``.

        Raises:
            IdentityFileError: the key set cannot be read.
        """
        self._participant_id = participant_id
        self._token = token.encode() if token else None
        self._issuer = issuer
        self._keys = read_key_set(jwks) if jwks is not None else None
        self._now = now

    def verify(self, header: str | None) -> OperatorIdentity:
        """Return the operator behind an ``Authorization`` header.

        Raises:
            UnauthorizedError: no token, or none that we accept.
        """
        token = bearer(header)
        if self._token is not None and hmac.compare_digest(token.encode(), self._token):
            return OperatorIdentity(name="operator-token", scopes=SCOPES)
        if self._keys is None or self._issuer is None:
            raise UnauthorizedError("unknown-token", "the operator token is not the one in the token file")
        claims = self._claims(token, self._keys)
        given = set(str(claims.get("scope", "")).split()) & SCOPES
        for scope in ("admin", "write"):
            if scope in given:
                given |= _IMPLIED[scope]
        return OperatorIdentity(name=str(claims["sub"]), scopes=frozenset(given))

    def _claims(self, token: str, keys: KeySet) -> dict[str, Any]:
        try:
            claims = dict(jwt.decode(token, keys, algorithms=_ALGORITHMS).claims)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise UnauthorizedError("bad-signature", "the operator's access token does not verify") from error
        now = self._now()
        audience = claims.get("aud")
        if claims.get("iss") != self._issuer:
            raise UnauthorizedError("wrong-issuer", "the access token is issued by another issuer")
        if self._participant_id not in (audience if isinstance(audience, list) else [audience]):
            raise UnauthorizedError("wrong-audience", "the access token is meant for another service")
        if instant(claims, "exp", now) <= now - SKEW:
            raise UnauthorizedError("token-expired", "the access token has expired")
        if "nbf" in claims and instant(claims, "nbf", now) > now + SKEW:
            raise UnauthorizedError("token-not-yet-valid", "the access token is not valid yet")
        if not isinstance(claims.get("sub"), str):
            raise UnauthorizedError("malformed-token", "the access token names no subject")
        return claims


def read_key_set(path: Path) -> KeySet:
    """Return the JSON Web Key Set of a file.

    Raises:
        IdentityFileError: missing or not a key set.
    """
    try:
        return KeySet.import_key_set(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise IdentityFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise IdentityFileError(f"{path}: is not a JSON Web Key Set") from error
