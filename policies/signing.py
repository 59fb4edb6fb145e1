"""Signed documents: Ed25519 over the canonical form of a JSON payload, with the signer's key beside it.

A signed document is ``{"payload": ..., "signature": {"alg": "Ed25519", "kid": ..., "value": ...}}``. The bytes that
are signed are ``b"orchard/" + type + NUL + canonical_json(payload)``, so that a signature made for one kind of document
can never be shown as another.
"""

import base64
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from policies.canonical import canonical_json, sha256_hex


class SignatureError(ValueError):
    """A signed document is malformed, names another key, or its signature does not verify."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signer:
    """A participant's signing key and the id that others know it by."""

    kid: str
    private_key: Ed25519PrivateKey = dataclasses.field(repr=False)

    @property
    def public_key(self) -> str:
        """The raw 32-byte public key, base64url without padding."""
        return encode(self.private_key.public_key().public_bytes_raw())

    def sign(self, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``payload`` as a signed document of the given kind."""
        value = self.private_key.sign(_to_be_signed(kind, payload))
        return {"payload": dict(payload), "signature": {"alg": "Ed25519", "kid": self.kid, "value": encode(value)}}

    def sign_bytes(self, kind: str, data: bytes) -> bytes:
        """Return the 64-byte signature over ``data`` under the domain of ``kind``."""
        return self.private_key.sign(_domain(kind) + data)


def new_signer(kid: str) -> Signer:
    """Return a signer with a fresh key from the operating system's generator."""
    return Signer(kid=kid, private_key=Ed25519PrivateKey.generate())


def verify(kind: str, document: Mapping[str, Any], public_key: str) -> dict[str, Any]:
    """Return the payload of a signed document once its signature verifies.

    Args:
        kind: the kind of document expected, e.g. ``"training-plan"``.
        document: the signed document as parsed from JSON.
        public_key: the signer's raw Ed25519 public key, base64url.

    Raises:
        SignatureError: anything about the document or its signature is wrong.
    """
    return verify_named(kind, document, public_key)[0]


def verify_named(kind: str, document: Mapping[str, Any], public_key: str) -> tuple[dict[str, Any], str]:
    """Return what :func:`verify` returns, and the document's digest, for the price of one canonical form.

    Raises:
        SignatureError: anything about the document or its signature is wrong.
    """
    payload, signature = document.get("payload"), document.get("signature")
    if not isinstance(payload, Mapping) or not isinstance(signature, Mapping):
        raise SignatureError("a signed document has a payload and a signature")
    if signature.get("alg") != "Ed25519" or not isinstance(signature.get("value"), str):
        raise SignatureError("the signature must be Ed25519 and carry a value")
    data = canonical_json(payload)
    verify_bytes(kind, data, decode(signature["value"]), public_key)
    return dict(payload), sha256_hex(data)


def verify_bytes(kind: str, data: bytes, signature: bytes, public_key: str) -> None:
    """Check a raw signature made by :meth:`Signer.sign_bytes`.

    Raises:
        SignatureError: the signature or the key is wrong.
    """
    try:
        _public(public_key).verify(signature, _domain(kind) + data)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(f"the signature over this {kind} does not verify") from error


def document_digest(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of the payload of a signed document: the name of what was signed."""
    return sha256_hex(canonical_json(document["payload"]))


def encode(data: bytes) -> str:
    """Return ``data`` as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of unpadded base64url text.

    Raises:
        SignatureError: the text is not base64url.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise SignatureError("not base64url") from error


@functools.lru_cache(maxsize=1024)
def _public(text: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(decode(text))


def _domain(kind: str) -> bytes:
    return b"orchard/" + kind.encode() + b"\0"


def _to_be_signed(kind: str, payload: Mapping[str, Any]) -> bytes:
    return _domain(kind) + canonical_json(payload)
