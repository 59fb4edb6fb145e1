"""The envelope in which a Prometheus-X consent manager hands a consent to connectors: ``signedConsent`` and ``encrypted``.

``encrypted`` is an AES key under the manager's RSA private key (PKCS #1 v1.5), ``signedConsent`` the consent under that
AES key (CBC, ``hex(iv):hex(text)``). Whoever has the manager's public key can open it, and whoever has opened one can
put other words under the same key: an envelope says which consent is meant and proves nothing about it. Read it, then
ask the manager. Source: Prometheus-X dataspace connector 1.10, consent flow.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from policies.errors import ConsentFormatError, EvidenceError

_LONGEST = 1_000_000
_SEALED = re.compile(r"([0-9a-f]{32}):((?:[0-9a-f]{32})+)")
# The manager writes the key as text: 32 hexadecimal digits are its 32 bytes.
_KEY = re.compile(rb"[0-9a-f]{32}")
_BLOCK = 128


def read_manager_key(pem: bytes) -> RSAPublicKey:
    """Return a manager's public key from its PEM text.

    Raises:
        ConsentFormatError: it is not an RSA public key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError) as error:
        raise ConsentFormatError("the consent service's key is not a public key in PEM") from error
    if not isinstance(key, RSAPublicKey):
        raise ConsentFormatError("the consent service's key is not an RSA key")
    return key


def open_envelope(signed: object, encrypted: object, key: RSAPublicKey) -> Mapping[str, Any]:
    """Return the consent in an envelope; what it says must be asked of its manager before it counts.

    Raises:
        EvidenceError: it is malformed, or its key was not sealed by this manager.
    """
    if not isinstance(signed, str) or not isinstance(encrypted, str) or len(signed) + len(encrypted) > _LONGEST:
        raise EvidenceError("a consent comes as the texts signedConsent and encrypted")
    parts = _SEALED.fullmatch(signed.lower())
    try:
        sealed = key.recover_data_from_signature(base64.b64decode(encrypted, validate=True), PKCS1v15(), None)
        if parts is None or _KEY.fullmatch(sealed) is None:
            raise EvidenceError("this consent was not sealed as the consent service seals")
        opened = Cipher(AES(sealed), CBC(bytes.fromhex(parts[1]))).decryptor()
        padded = opened.update(bytes.fromhex(parts[2])) + opened.finalize()
        unpadder = PKCS7(_BLOCK).unpadder()
        consent = json.loads(unpadder.update(padded) + unpadder.finalize())
    except (InvalidSignature, binascii.Error, ValueError, RecursionError) as error:
        raise EvidenceError("this consent was changed, or was not sealed by the configured consent service") from error
    if not isinstance(consent, dict):
        raise EvidenceError("the envelope holds no consent")
    return consent
