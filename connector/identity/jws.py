"""Compact JWS with Ed25519 and explicit types (RFC 7515, RFC 8037, RFC 8725 section 3.11).

Tokens of requests are made and checked here with the signature alone: two of them come with every message, and a general
library spends three times as long on their form as on the signature.
"""

import base64
import functools
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from connector.identity.errors import UnauthorizedError
from policies.signing import Signer, decode, encode

ALGORITHM = "Ed25519"
_ALGORITHMS = [ALGORITHM]
_MAX_TOKEN = 16_384


def public_jwk(public_key: str) -> dict[str, str]:
    """Return the JWK of a raw base64url Ed25519 public key."""
    return {"kty": "OKP", "crv": "Ed25519", "x": public_key}


def verification_key(public_key: str) -> OKPKey:
    """Return the key object for a raw base64url Ed25519 public key.

    Raises:
        UnauthorizedError: the text is not such a key.
    """
    try:
        return OKPKey.import_key(Ed25519PublicKey.from_public_bytes(decode(public_key)))
    except ValueError as error:
        raise UnauthorizedError("bad-key", "the public key is not an Ed25519 key") from error


def signing_key(signer: Signer) -> OKPKey:
    """Return the JOSE key object of a signer; keep it, making it costs more than a signature."""
    return OKPKey.import_key(signer.private_key)


def sign_compact(key: OKPKey, kid: str, kind: str, claims: dict[str, Any]) -> str:
    """Return ``claims`` as a compact JWS whose ``typ`` header is ``kind``."""
    said = f"{_header(kind, kid)}.{encode(json.dumps(claims, separators=(',', ':')).encode())}"
    private = key.private_key
    assert isinstance(private, Ed25519PrivateKey)  # noqa: S101 - made from a signer
    return f"{said}.{encode(private.sign(said.encode()))}"


def verify_compact(token: str, key: OKPKey, kind: str) -> dict[str, Any]:
    """Return the claims of a compact JWS of the given kind once its signature verifies.

    Raises:
        UnauthorizedError: wrong form, type, algorithm or signature.
    """
    said, _, signature = _bounded(token).rpartition(".")
    head, _, payload = said.partition(".")
    try:
        typ = _type(head)
        public = key.public_key
        assert isinstance(public, Ed25519PublicKey)  # noqa: S101 - made from one
        public.verify(decode(signature), said.encode("ascii"))
        body = decode(payload)
    except (InvalidSignature, ValueError, RecursionError) as error:
        raise UnauthorizedError("bad-signature", f"the {kind} token does not verify") from error
    if typ != kind:
        raise UnauthorizedError("wrong-type", f"expected a token of type {kind}")
    return _claims(body, kind)


def sign_detached(key: OKPKey, kid: str, kind: str, body: bytes) -> str:
    """Return a compact JWS over ``body`` with the payload left out (RFC 7515, appendix F)."""
    header = {"alg": ALGORITHM, "typ": kind, "kid": kid}
    head, _, signature = jws.serialize_compact(header, body, key, algorithms=_ALGORITHMS).split(".")
    return f"{head}..{signature}"


def verify_detached(token: str, body: bytes, key: OKPKey, kind: str) -> None:
    """Check a detached JWS of the given kind over ``body``.

    Raises:
        UnauthorizedError: wrong form, type, algorithm or signature, or other bytes.
    """
    head, dots, signature = token.partition("..")
    if not dots:
        raise UnauthorizedError("malformed-token", f"not a detached {kind} signature")
    whole = f"{head}.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.{signature}"
    try:
        verified = jws.deserialize_compact(whole, key, algorithms=_ALGORITHMS)
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise UnauthorizedError("bad-signature", f"the {kind} signature does not verify") from error
    if verified.protected.get("typ") != kind:
        raise UnauthorizedError("wrong-type", f"expected a signature of type {kind}")


def peek(token: str, kind: str) -> dict[str, Any]:
    """Return the claims of a compact JWS **without checking its signature**: only to find the key to check it with.

    Raises:
        UnauthorizedError: wrong form.
    """
    parts = _bounded(token).split(".")
    try:
        _head, payload, _signature = parts
        body = decode(payload)
    except ValueError as error:
        raise UnauthorizedError("malformed-token", f"not a {kind} token") from error
    return _claims(body, kind)


@functools.lru_cache(maxsize=64)
def _header(kind: str, kid: str) -> str:
    return encode(json.dumps({"alg": ALGORITHM, "typ": kind, "kid": kid}, separators=(",", ":")).encode())


@functools.lru_cache(maxsize=256)
def _type(head: str) -> object:
    """Return the type that a protected header names.

    Raises:
        ValueError: it is no header, names another algorithm, or asks for something that is not understood here.
    """
    found = json.loads(decode(head))
    if not isinstance(found, dict) or found.get("alg") != ALGORITHM or {"crit", "b64"} & found.keys():
        raise ValueError("not a header of ours")
    return found.get("typ")


def _bounded(token: str) -> str:
    if len(token) > _MAX_TOKEN:
        raise UnauthorizedError("malformed-token", "the token is too long")
    return token


def _claims(payload: bytes, kind: str) -> dict[str, Any]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise UnauthorizedError("malformed-token", f"the {kind} token holds no JSON object") from error
    if not isinstance(claims, dict):
        raise UnauthorizedError("malformed-token", f"the {kind} token holds no JSON object")
    return claims
