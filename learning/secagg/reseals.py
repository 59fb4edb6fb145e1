"""Seeds sealed once more, to a seat that replaced another after the contributor set was final."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from learning.secagg.context import Group, RoundContext
from learning.secagg.errors import ReplacementError
from learning.secagg.header import UploadHeader, verify_header
from policies.canonical import CanonicalFormError, digest
from policies.signing import SignatureError, Signer, document_digest, verify

KIND = "secagg-reseal"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reseal:
    """A verified re-sealed box: the contributor's header, and the digest (hex) of the box."""

    header: UploadHeader
    box: str


def sign_reseal(signer: Signer, upload: Mapping[str, Any], *, seat: str, column: int, box: bytes) -> dict[str, Any]:
    """Return the signed statement that ``box`` holds the seeds of ``upload`` for ``seat`` in ``column``."""
    payload = {
        "context": digest(upload["payload"]["context"]),
        "upload": document_digest(upload),
        "seat": seat,
        "column": column,
        "box": hashlib.sha256(box).hexdigest(),
    }
    return signer.sign(KIND, payload)


def accept_reseal(
    document: Mapping[str, Any],
    upload: Mapping[str, Any],
    *,
    column: int,
    context: RoundContext,
    group: Group,
    members: Mapping[str, str],
) -> Reseal:
    """Return what a replacing seat was sent, once contributor, place and signatures are right.

    The box itself is opened by :func:`learning.secagg.seat.open_seeds` with ``resealed=`` its digest, which checks the
    seeds against the commitments in the header: a contributor cannot change its mind.

    Args:
        document: the signed re-sealing.
        upload: the upload's signed header.
        column: the column that this seat took over.
        context: the attempt.
        group: the seats as they are now.
        members: participant id -> Ed25519 public key, from the manifest.

    Raises:
        HeaderError: the header is malformed or badly signed (or one of its kin, see ``verify_header``).
        ReplacementError: the document is not the contributor's, or is for another upload, seat or column.
    """
    header = verify_header(upload, context, members, seeds=len(group.table), boxes=len(group.seats))
    try:
        payload = verify(KIND, document, members[header.participant])
    except (SignatureError, CanonicalFormError) as error:
        raise ReplacementError("the re-sealing is not signed by its contributor", sender=header.contributor) from error
    expected = {
        "context": context.digest,
        "upload": header.digest,
        "seat": group.seats[column].participant,
        "column": column,
    }
    if {name: payload.get(name) for name in expected} != expected or not isinstance(payload.get("box"), str):
        raise ReplacementError("the re-sealing is for another upload or seat", sender=header.contributor)
    return Reseal(header=header, box=payload["box"])
