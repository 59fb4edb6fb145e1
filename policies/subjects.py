"""Pairwise pseudonyms: how a provider names a learner towards everything but its own source.

The name is an HMAC-SHA256 under a secret of the provider, so that two providers never share a name and nobody without
the secret can try out identities. The secret never leaves the provider.
"""

import hashlib
import hmac

_MIN_SECRET = 16
REF_LENGTH = 32


def subject_ref(secret: bytes, subject: str) -> str:
    """Return the pseudonym of a source's subject id: 32 hexadecimal characters (128 bits).

    Raises:
        ValueError: the secret is shorter than 16 bytes, or the subject is empty.
    """
    if len(secret) < _MIN_SECRET:
        raise ValueError(f"the provider's secret needs at least {_MIN_SECRET} bytes")
    if not subject:
        raise ValueError("a subject id must not be empty")
    return hmac.new(secret, subject.encode(), hashlib.sha256).hexdigest()[:REF_LENGTH]


def party_ref(secret: bytes, party: str) -> str:
    """Return the pseudonym of a person who is not a subject (a guardian); it never equals a subject's."""
    return subject_ref(secret, "party\0" + party)
