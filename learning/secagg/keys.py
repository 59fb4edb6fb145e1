"""Sealing seeds to a seat: HPKE single shot (RFC 9180), X25519 or the hybrid ML-KEM-768 + X25519.

A box is bound, by HPKE's info, to the round's context, the contributor and the seat, so that it opens nowhere else.
Public keys travel raw in base64url; their length tells the suite (32 bytes, or 1184 + 32 bytes for the hybrid).
"""

import dataclasses
import functools
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from learning.secagg.errors import BoxError, ParameterError
from policies.canonical import canonical_json
from policies.signing import SignatureError, decode, encode

SuiteName = Literal["x25519", "mlkem768-x25519"]

_X25519_BYTES, _MLKEM_SEED_BYTES = 32, 64
_CLASSIC = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)
_HYBRID = Suite(KEM.MLKEM768_X25519, KDF.SHAKE256, AEAD.AES_256_GCM)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SealingKey:
    """A seat's private key for one job.

    HAZARD: whoever keeps it can open the boxes it recorded; make one per job and erase it when the job ends.
    """

    private_bytes: bytes = dataclasses.field(repr=False)

    @property
    def public_key(self) -> str:
        """The raw public key, base64url."""
        classic, hybrid = self._parts
        raw = classic.public_key().public_bytes_raw()
        return encode(raw if hybrid is None else hybrid.public_key().public_bytes_raw() + raw)

    def open(self, box: bytes, info: bytes) -> bytes:
        """Return what was sealed in ``box`` under ``info``.

        Raises:
            BoxError: the box was not sealed to this key under this info.
        """
        classic, hybrid = self._parts
        try:
            if hybrid is None:
                return _CLASSIC.decrypt(box, classic, info)
            return _HYBRID.decrypt(box, MLKEM768X25519PrivateKey(hybrid, classic), info)
        except (InvalidTag, ValueError) as error:
            raise BoxError("the sealed box does not open") from error

    @functools.cached_property
    def _parts(self) -> tuple[X25519PrivateKey, MLKEM768PrivateKey | None]:
        classic = X25519PrivateKey.from_private_bytes(self.private_bytes[-_X25519_BYTES:])
        if len(self.private_bytes) == _X25519_BYTES:
            return classic, None
        return classic, MLKEM768PrivateKey.from_seed_bytes(self.private_bytes[:_MLKEM_SEED_BYTES])


def new_sealing_key(suite: SuiteName = "x25519") -> SealingKey:
    """Return a fresh key from the operating system's generator."""
    classic = X25519PrivateKey.generate().private_bytes_raw()
    if suite == "x25519":
        return SealingKey(private_bytes=classic)
    return SealingKey(private_bytes=MLKEM768PrivateKey.generate().private_bytes_raw() + classic)


def seal(plaintext: bytes, public_key: str, info: bytes) -> bytes:
    """Return ``plaintext`` sealed to ``public_key`` under ``info``.

    Raises:
        ParameterError: the text is not a public key of either suite.
    """
    classic, hybrid = _public(public_key)
    try:
        if hybrid is None:
            return _CLASSIC.encrypt(plaintext, classic, info)
        return _HYBRID.encrypt(plaintext, MLKEM768X25519PublicKey(hybrid, classic), info)
    except ValueError as error:
        # A point of low order parses and then gives no shared secret.
        raise ParameterError("not a sealing key") from error


def check_public_key(public_key: str) -> None:
    """Refuse what nothing can be sealed to.

    Raises:
        ParameterError: the text is not a public key of either suite.
    """
    seal(b"", public_key, b"")


def box_info(context_digest: str, contributor: str, seat: str) -> bytes:
    """Return the HPKE info of the box that ``contributor`` seals to the participant ``seat``."""
    value = {"context": context_digest, "contributor": contributor, "seat": seat}
    return b"orchard/secagg/box/1\0" + canonical_json(value)


def _public(text: str) -> tuple[X25519PublicKey, MLKEM768PublicKey | None]:
    try:
        raw = decode(text)
        if len(raw) == _X25519_BYTES:
            return X25519PublicKey.from_public_bytes(raw), None
        hybrid = MLKEM768PublicKey.from_public_bytes(raw[:-_X25519_BYTES])
        return X25519PublicKey.from_public_bytes(raw[-_X25519_BYTES:]), hybrid
    except (SignatureError, ValueError) as error:
        raise ParameterError("a sealing key has 32 or 1216 bytes, base64url") from error
