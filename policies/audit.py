"""The audit export: consents, uses and decisions of a period or of one subject, signed, verifiable without us.

``{"payload": {...}, "signature": {...}}`` as in ``policies.signing``, kind ``audit-export``. Each record carries its
whole chain of signed events, so that nothing can be left out of the middle or moved; the end of a chain and the
completeness of the list rest on the export's own signature and its time. Subjects are pseudonyms throughout.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from policies.canonical import CanonicalFormError
from policies.consent import verify_chain
from policies.errors import EvidenceError
from policies.expressions import stamp
from policies.receipts import chain_of
from policies.signing import SignatureError, Signer, verify

EXPORT_KIND = "audit-export"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Period:
    """From ``start`` (included) to ``end`` (not); None is open."""

    start: datetime | None = None
    end: datetime | None = None

    def holds(self, moment: str) -> bool:
        """Say whether a fixed-width UTC text lies in the period."""
        after = self.start is None or moment >= stamp(self.start)
        return after and (self.end is None or moment < stamp(self.end))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audited:
    """What a verified export holds."""

    issuer: str
    made_at: str
    records: int
    events: int
    decisions: int


def sign_export(
    signer: Signer,
    *,
    period: Period,
    subject: str | None,
    made_at: datetime,
    records: Sequence[Mapping[str, Any]],
    notices: Sequence[Mapping[str, Any]],
    uses: Sequence[Mapping[str, Any]],
    decisions: Sequence[Mapping[str, Any]],
    duties: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the signed export; ``subject`` is the pseudonym it is about, None for everybody."""
    payload = {
        "@type": "AuditExport",
        "issuer": signer.kid,
        "issuer_key": signer.public_key,
        "made_at": stamp(made_at),
        "period": {
            "start": None if period.start is None else stamp(period.start),
            "end": None if period.end is None else stamp(period.end),
        },
        "subject": subject,
        "records": list(records),
        "notices": list(notices),
        "uses": list(uses),
        "decisions": list(decisions),
        "duties": list(duties),
    }
    return signer.sign(EXPORT_KIND, payload)


def verify_export(document: Mapping[str, Any], public_key: str) -> Audited:
    """Check an export offline: its signature, and every record's chain of events.

    Args:
        document: the export as handed out.
        public_key: the provider's raw Ed25519 public key, base64url, known from somewhere else than the export.

    Raises:
        EvidenceError: it was changed, forged, or made by another key.
    """
    try:
        payload = verify(EXPORT_KIND, document, public_key)
        chains = [chain_of(record) for record in payload["records"]]
        decisions = len(payload["decisions"])
        found = Audited(
            issuer=str(payload["issuer"]),
            made_at=str(payload["made_at"]),
            records=len(chains),
            events=sum(len(chain) for chain in chains),
            decisions=decisions,
        )
    except (SignatureError, CanonicalFormError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError("this export was changed, or was not made with that key") from error
    for chain in chains:
        verify_chain(chain, public_key)
    return found
