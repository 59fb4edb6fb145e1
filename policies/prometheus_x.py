"""Consents in the shape of the Prometheus-X consent manager (schema 0.2.0), both ways.

That shape has no language, no notice version, no age and no guardian, and its fields for purposes hold text of any kind.
What it does not say must be given beside it; what we cannot map is refused. Its statuses: pending, draft, granted,
refused, revoked, expired, terminated. Source: Prometheus-X consent manager, consent and privacy notice models.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from policies.consent import ConsentEvent, ConsentRecord, ConsentState
from policies.errors import ConsentFormatError
from policies.expressions import stamp
from policies.notices import Notice

SCHEMA_VERSION = "0.2.0"
SOURCE = "prometheus-x"
GRANTED = "granted"
_MOST_PURPOSES = 50
_LONGEST = 400
_DECISIONS = {
    "granted": "grant",
    "refused": "refuse",
    "revoked": "withdraw",
    "terminated": "withdraw",
    "expired": "withdraw",
}
_STATUS = {
    ConsentState.REQUESTED: "pending",
    ConsentState.GRANTED: GRANTED,
    ConsentState.RENEWED: GRANTED,
    ConsentState.REFUSED: "refused",
    ConsentState.WITHDRAWN: "revoked",
    ConsentState.EXPIRED: "expired",
    ConsentState.INVALIDATED: "terminated",
}
# What a record must be given with, because the shape has no place for it.
BESIDE = frozenset(
    {
        "notice_id",
        "notice_version",
        "language",
        "country",
        "birth_year",
        "birth_date",
        "attested_adult",
        "guardian",
        "verification",
        "evidence_ref",
    }
)


def consent_document(
    record: ConsentRecord, events: Sequence[ConsentEvent], notice: Notice, now: datetime
) -> dict[str, Any]:
    """Return a record in that shape; the person is this provider's pseudonym, and no token is handed out."""
    purpose = notice.purpose(record.purpose)
    state = record.state_at(now)
    if state.value in ("granted", "renewed") and notice.material(record.purpose) != record.material:
        state = ConsentState.INVALIDATED
    return {
        "_id": record.record_id,
        "schema_version": SCHEMA_VERSION,
        "user": record.subject_ref,
        "dataProvider": notice.controller.party_id,
        "recipients": list(purpose.recipients),
        "purposes": [{"purpose": record.purpose, "legalBasis": purpose.legal_basis, "resource": record.dataset_id}],
        "data": [{"resource": record.dataset_id, "categories": list(purpose.data_categories)}],
        "status": _STATUS[state],
        "consented": state in (ConsentState.GRANTED, ConsentState.RENEWED),
        "privacyNotice": notice.notice_id,
        "privacyNoticeVersion": notice.version,
        "processingLocations": list(notice.storage_places),
        "storageLocations": list(notice.storage_places),
        "retentionPeriod": purpose.retention,
        "rights": list(notice.rights),
        "withdrawalMethod": notice.withdrawal,
        "jurisdiction": notice.jurisdiction,
        "validUntil": stamp(record.expires_at),
        "event": [
            {
                "eventTime": event.payload["at"],
                "eventType": event.payload["action"],
                "eventState": event.payload["state"],
            }
            for event in events
        ],
    }


def import_rows_of(entry: object) -> tuple[str, str, list[dict[str, Any]]]:
    """Return the id and the user of a consent of that service, and the rows that it amounts to, one a purpose.

    Args:
        entry: ``{"consent": {...}, "notice_id": ..., "language": ..., "country": ..., ...}``; see ``BESIDE``.

    Raises:
        ConsentFormatError: something is missing or cannot be mapped; no value is repeated.
    """
    if not isinstance(entry, Mapping) or set(entry) - BESIDE - {"consent"}:
        raise ConsentFormatError(f"an entry holds consent and of: {', '.join(sorted(BESIDE))}")
    consent = entry.get("consent")
    if not isinstance(consent, Mapping):
        raise ConsentFormatError("consent: missing")
    consent_id, user, subject = _text(consent, "_id"), _text(consent, "user"), _identifier(consent)
    status = _text(consent, "status")
    decision = _DECISIONS.get(status)
    if decision is None:
        raise ConsentFormatError("status: nobody has answered yet, or the status is not known here")
    said_at = _last_event(consent)
    return (
        consent_id,
        user,
        [
            {
                "event_id": f"ptx:{consent_id}:{status}:{number}:{said_at}",
                "subject": subject,
                "decision": decision,
                "purpose": purpose,
                "expressed_at": said_at,
                **{key: value for key, value in entry.items() if key != "consent"},
            }
            for number, purpose in enumerate(_purposes(consent))
        ],
    )


def still_granted(answer: object, consent_id: str, purpose: str, now: datetime) -> bool:
    """Say whether a service's answer about a consent says that it is granted for ``purpose`` now; a doubt is a no.

    The status decides, never a token: that service accepts the token of a revoked consent.
    """
    if not isinstance(answer, Mapping):
        return False
    inner = answer.get("content", answer.get("consent"))
    consent = inner if isinstance(inner, Mapping) else answer
    if consent.get("_id") != consent_id or consent.get("status") != GRANTED:
        return False
    until = consent.get("validUntil")
    try:
        if until is not None and datetime.fromisoformat(str(until)) <= now:
            return False
        return purpose in _purposes(consent)
    except (ConsentFormatError, ValueError, TypeError):
        return False


def purposes_of(consent: Mapping[str, Any]) -> list[str]:
    """Return the purposes that a consent of that service names; none where it cannot be read."""
    try:
        return _purposes(consent)
    except ConsentFormatError:
        return []


def _purposes(consent: Mapping[str, Any]) -> list[str]:
    listed = consent.get("purposes")
    if not isinstance(listed, list) or not 1 <= len(listed) <= _MOST_PURPOSES:
        raise ConsentFormatError(f"purposes: a list of 1 to {_MOST_PURPOSES}")
    return [_text(item, "purpose") if isinstance(item, Mapping) else _checked(item, "purposes") for item in listed]


def _identifier(consent: Mapping[str, Any]) -> str:
    given = consent.get("providerUserIdentifier")
    if isinstance(given, Mapping):
        return _text(given, "identifier")
    return _checked(given, "providerUserIdentifier")


def _last_event(consent: Mapping[str, Any]) -> str:
    events = consent.get("event")
    times = [item.get("eventTime") for item in events if isinstance(item, Mapping)] if isinstance(events, list) else []
    texts = sorted(item for item in times if isinstance(item, str))
    if not texts:
        raise ConsentFormatError("event: no time at which anything was said")
    return texts[-1]


def _text(value: Mapping[str, Any], name: str) -> str:
    return _checked(value.get(name), name)


def _checked(value: object, name: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise ConsentFormatError(f"{name}: text of 1 to {_LONGEST} characters")
    return value
