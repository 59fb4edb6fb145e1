"""Opening one box for all to see: the Diffie-Hellman value of a box, and what it opens (RFC 9180, X25519 suite).

A seat that is sealed wrong seeds shows this value, not its key: it opens that box and no other. The box itself is fixed
by its contributor's signature, so that a made-up value would have to pass its authentication by chance.
"""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from learning.secagg.errors import BoxError
from learning.secagg.keys import SealingKey
from policies.signing import decode

_X25519_BYTES = 32
_KEM = b"KEM\x00\x20"
_HPKE = b"HPKE\x00\x20\x00\x01\x00\x01"


def exchange_of(box: bytes, key: SealingKey) -> bytes:
    """Return the Diffie-Hellman value (32 bytes) of ``box`` and the seat's X25519 key.

    Raises:
        BoxError: the key is of another suite, or the box has no key in it.
    """
    if len(key.private_bytes) != _X25519_BYTES:
        raise BoxError("only boxes of the X25519 suite can be shown")
    try:
        public = X25519PublicKey.from_public_bytes(box[:_X25519_BYTES])
        return X25519PrivateKey.from_private_bytes(key.private_bytes).exchange(public)
    except ValueError as error:
        raise BoxError("the box has no key in it") from error


def open_with_exchange(box: bytes, exchange: bytes, public_key: str, info: bytes) -> bytes:
    """Return what ``box`` holds, given its Diffie-Hellman value and the seat's public key (base64url).

    Raises:
        BoxError: the value does not open the box.
    """
    sender, sealed = box[:_X25519_BYTES], box[_X25519_BYTES:]
    secret = _expand(_KEM, _extract(_KEM, b"", b"eae_prk", exchange), b"shared_secret", sender + decode(public_key), 32)
    schedule = b"\0" + _extract(_HPKE, b"", b"psk_id_hash", b"") + _extract(_HPKE, b"", b"info_hash", info)
    base = _extract(_HPKE, secret, b"secret", b"")
    key = _expand(_HPKE, base, b"key", schedule, 16)
    try:
        return AESGCM(key).decrypt(_expand(_HPKE, base, b"base_nonce", schedule, 12), sealed, b"")
    except (InvalidTag, ValueError) as error:
        raise BoxError("the value shown does not open the box") from error


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    text = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, text + b"\x01", "sha256")[:length]
