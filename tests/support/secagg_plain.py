"""A contributor in plain Python, from the protocol page alone: nothing here is imported from the project.

It stands for a node in another language, and is the independent source of the committed vectors.
"""

import base64
import hashlib
import hmac
import itertools
import json

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite


def canonical(value):
    """RFC 8785 for the ASCII texts and small integers of these messages."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def vector_digest(packed):
    """What headers name a packed vector by."""
    return "blake3:" + blake3(packed).hexdigest()


def mask(seed, info, d, k):
    """AES-128 over a 128-bit big-endian counter, one block at a time, as little-endian words modulo 2^k."""
    prk = hmac.new(bytes(32), seed, hashlib.sha256).digest()
    material = hmac.new(prk, info + b"\x01", hashlib.sha256).digest()
    block = Cipher(AES(material[:16]), ECB()).encryptor()  # noqa: S305 - counter mode written out
    counter, stream, width = int.from_bytes(material[16:], "big"), b"", 8 if k == 64 else 4
    while len(stream) < d * width:
        stream += block.update(counter.to_bytes(16, "big"))
        counter = (counter + 1) % 2**128
    return [int.from_bytes(stream[i * width : (i + 1) * width], "little") % 2**k for i in range(d)]


def pack(values, k):
    """One big integer, value i at bit i * k, little-endian."""
    number = sum(value << (i * k) for i, value in enumerate(values))
    return number.to_bytes((len(values) * k + 7) // 8, "little")


def holders(m, t):
    """Seed index -> the seats outside the t-subset, subsets in lexicographic order."""
    return [[a for a in range(m) if a not in subset] for subset in itertools.combinations(range(m), t)]


def upload(values, context, seats, threshold, contributor, private_key, seeds):
    """Return (signed header, boxes, y) for non-negative ring values; ``seats`` are (participant, X25519 key) pairs."""
    k, d = context["k"], context["d"]
    digest = hashlib.sha256(canonical(context)).digest()
    table = holders(len(seats), threshold)
    total = list(values)
    for index, seed in enumerate(seeds):
        words = mask(seed, b"orchard/secagg/mask/1\0" + digest + index.to_bytes(2, "big"), d, k)
        total = [(a + b) % 2**k for a, b in zip(total, words, strict=True)]
    y = pack(total, k)
    suite, boxes = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM), []
    for column, (participant, key) in enumerate(seats):
        plain = b"".join(seed for seed, who in zip(seeds, table, strict=True) if column in who)
        about = {"context": digest.hex(), "contributor": contributor, "seat": participant}
        info = b"orchard/secagg/box/1\0" + canonical(about)
        boxes.append(suite.encrypt(plain, X25519PublicKey.from_public_bytes(key), info))
    payload = {
        "context": context,
        "participant": contributor.partition("#")[0],
        "contributor": contributor,
        "vector": vector_digest(y),
        "seeds": [
            hashlib.sha256(b"orchard/secagg/seed/1\0" + digest + index.to_bytes(2, "big") + seed).hexdigest()
            for index, seed in enumerate(seeds)
        ],
        "boxes": [hashlib.sha256(box).hexdigest() for box in boxes],
    }
    signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(b"orchard/secagg-upload\0" + canonical(payload))
    value = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    return (
        {"payload": payload, "signature": {"alg": "Ed25519", "kid": payload["participant"], "value": value}},
        boxes,
        y,
    )
