"""The sign-in service that the demo plays for each school: a key, its JWKS file, and tokens for learners."""

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from connector.identity.files import read_signer, write_key
from connector.identity.jws import ALGORITHM, public_jwk, sign_compact, signing_key
from policies.signing import Signer

KEY_FILE = "learners-issuer.key"
JWKS_FILE = "learners-jwks.json"
_TOKEN_LASTS = timedelta(minutes=10)
_KEY_ID = "demo-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoIssuer:
    """Signs tokens as a school's OIDC issuer would.

    Attributes:
        issuer: the ``iss`` that the school's configuration names.
        audience: the school's participant id.
    """

    issuer: str
    audience: str
    signer: Signer = dataclasses.field(repr=False)

    def authorization(self, subject: str, scope: str, now: datetime, claims: Mapping[str, Any] | None = None) -> str:
        """Return the Authorization header of a signed-in person."""
        body = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "scope": scope,
            "iat": int(now.timestamp()),
            "exp": int((now + _TOKEN_LASTS).timestamp()),
            **(claims or {}),
        }
        return "Bearer " + sign_compact(signing_key(self.signer), _KEY_ID, "JWT", body)


def create_issuer(folder: Path) -> Path:
    """Make an issuer's key (0600) and its JWKS in a participant's folder; return the JWKS file for ``[consent] jwks``.

    Raises:
        IdentityFileError: there is one already.
    """
    write_key(folder / KEY_FILE)
    public = public_jwk(read_signer(folder / KEY_FILE, _KEY_ID).public_key)
    jwks = {"keys": [{**public, "kid": _KEY_ID, "alg": ALGORITHM, "use": "sig"}]}
    (folder / JWKS_FILE).write_text(json.dumps(jwks, indent=2) + "\n", encoding="utf-8")
    return folder / JWKS_FILE


def key_of(folder: Path) -> dict[str, str]:
    """Return where the key of :func:`create_issuer` is and how others know it, for the demo's sign-in service."""
    return {"key": str(folder / KEY_FILE), "kid": _KEY_ID}


def open_issuer(folder: Path, *, issuer: str, audience: str) -> DemoIssuer:
    """Return the issuer that :func:`create_issuer` made.

    Raises:
        IdentityFileError: its key is missing or open to others.
    """
    return DemoIssuer(issuer=issuer, audience=audience, signer=read_signer(folder / KEY_FILE, _KEY_ID))
