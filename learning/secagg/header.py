"""The upload header: what a contributor signs about its one upload.

It carries the whole context, the digest of the masked vector, a commitment to every seed and the digest of every
sealed box, so that whoever holds header and part can tell a cheating contributor from a damaged transport.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from learning.secagg.context import RoundContext
from learning.secagg.errors import ContextMismatchError, HeaderError, UnknownContributorError
from learning.secagg.packing import is_vector_digest
from policies.canonical import CanonicalFormError
from policies.signing import SignatureError, Signer, verify_named

KIND = "secagg-upload"
_HEX, _HEX_DIGITS = re.compile(r"[0-9a-f]*"), 64
_FIELDS = {"context", "participant", "contributor", "vector", "seeds", "boxes"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadHeader:
    """A verified header.

    Attributes:
        digest: SHA-256 (hex) of the signed payload; names the upload.
        participant: the member that signed.
        contributor: the member's id, or ``<member id>#<part>`` where a member hosts many contributors.
        vector: what :func:`~learning.secagg.packing.vector_digest` returns for the packed vector.
        seeds: commitment (hex) to each seed, in table order.
        boxes: SHA-256 (hex) of each seat's box, in column order.
    """

    digest: str
    participant: str
    contributor: str
    vector: str
    seeds: tuple[str, ...]
    boxes: tuple[str, ...]


def seed_commitment(context: RoundContext, index: int, seed: bytes) -> str:
    """Return the commitment (hex) to seed ``index``: SHA-256 over domain, context digest, index and the seed.

    A seed has 256 bits, so that the plain hash hides it.
    """
    domain = b"orchard/secagg/seed/1\0" + context.digest_bytes + index.to_bytes(2, "big")
    return hashlib.sha256(domain + seed).hexdigest()


def sign_header(
    signer: Signer,
    context: RoundContext,
    *,
    contributor: str,
    vector: str,
    seeds: tuple[str, ...],
    boxes: tuple[str, ...],
) -> dict[str, Any]:
    """Return the signed header; the signer's kid is the participant."""
    payload = {
        "context": context.document(),
        "participant": signer.kid,
        "contributor": contributor,
        "vector": vector,
        "seeds": list(seeds),
        "boxes": list(boxes),
    }
    return signer.sign(KIND, payload)


def verify_header(
    document: Mapping[str, Any],
    context: RoundContext,
    members: Mapping[str, str],
    *,
    seeds: int,
    boxes: int,
) -> UploadHeader:
    """Return the header in ``document`` once everything about it is right.

    Args:
        document: the signed document as parsed from JSON.
        context: the attempt that is open.
        members: participant id -> Ed25519 public key (base64url), from the manifest.
        seeds: number of seed commitments expected (0 in clear mode).
        boxes: number of boxes expected (0 in clear mode).

    Raises:
        HeaderError: malformed, or the signature does not verify.
        UnknownContributorError: not signed by a member, or for somebody else's contributor.
        ContextMismatchError: for another job, plan, model, round, attempt or ring.
    """
    payload = document.get("payload")
    participant = payload.get("participant") if isinstance(payload, Mapping) else None
    if not isinstance(participant, str):
        raise HeaderError("the upload header names no participant")
    if participant not in members:
        raise UnknownContributorError("is not a member of this job", sender=participant)
    try:
        payload, name = verify_named(KIND, document, members[participant])
    except (SignatureError, CanonicalFormError) as error:
        raise HeaderError("the upload header is not signed by its participant", sender=participant) from error
    if set(payload) != _FIELDS:
        raise HeaderError("the upload header does not have exactly its fields", sender=participant)
    _check_context(payload["context"], context, participant)
    return UploadHeader(
        digest=name,
        participant=participant,
        contributor=_contributor(payload["contributor"], participant),
        vector=_vector(payload["vector"], participant),
        seeds=_digests(payload["seeds"], seeds, participant),
        boxes=_digests(payload["boxes"], boxes, participant),
    )


def _check_context(found: object, context: RoundContext, sender: str) -> None:
    expected = context.document()
    if not isinstance(found, Mapping) or set(found) != set(expected):
        raise HeaderError("the upload header has no context", sender=sender)
    for name, value in expected.items():
        # 1 == True == 1.0 in Python, not in the canonical form.
        if found[name] != value or type(found[name]) is not type(value):
            raise ContextMismatchError(f"the upload is for another {name}", sender=sender)


def _contributor(value: object, participant: str) -> str:
    if isinstance(value, str) and (value == participant or value.startswith(participant + "#")):
        return value
    raise UnknownContributorError("signs for a contributor that is not its own", sender=participant)


def _vector(value: object, sender: str) -> str:
    if isinstance(value, str) and is_vector_digest(value):
        return value
    raise HeaderError("a vector's digest is blake3: and 64 lower-case hexadecimal digits", sender=sender)


def _digests(value: object, count: int, sender: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise HeaderError(f"the upload header must list {count} digests", sender=sender)
    texts = {str} >= set(map(type, value))
    if not (texts and {_HEX_DIGITS} >= set(map(len, value)) and _HEX.fullmatch("".join(value))):
        raise HeaderError("a digest is 64 lower-case hexadecimal digits", sender=sender)
    return tuple(value)
