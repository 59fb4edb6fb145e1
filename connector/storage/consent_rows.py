"""Consent records and events between values and rows."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from policies.consent import ConsentEvent, ConsentRecord, ConsentState, Expresser, Relation
from policies.expressions import stamp


def record_row(record: ConsentRecord) -> dict[str, Any]:
    """Return the row of a record."""
    who = record.expressed_by
    return {
        "record_id": record.record_id,
        "subject_ref": record.subject_ref,
        "dataset_id": record.dataset_id,
        "purpose": record.purpose,
        "notice_id": record.notice_id,
        "notice_version": record.notice_version,
        "language": record.language,
        "material": record.material,
        "state": record.state.value,
        "expires_at": stamp(record.expires_at),
        "updated_at": stamp(record.updated_at),
        "relation": who.relation.value,
        "party_ref": who.party_ref,
        "verification": who.verification,
        "evidence_ref": who.evidence_ref,
        "revision": record.revision,
        "head": record.head,
    }


def record_value(row: Mapping[Any, Any]) -> ConsentRecord:
    """Return the record of a row."""
    return ConsentRecord(
        record_id=row["record_id"],
        subject_ref=row["subject_ref"],
        dataset_id=row["dataset_id"],
        purpose=row["purpose"],
        notice_id=row["notice_id"],
        notice_version=row["notice_version"],
        language=row["language"],
        material=row["material"],
        state=ConsentState(row["state"]),
        expires_at=datetime.fromisoformat(row["expires_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
        expressed_by=Expresser(
            relation=Relation(row["relation"]),
            party_ref=row["party_ref"],
            verification=row["verification"],
            evidence_ref=row["evidence_ref"],
        ),
        revision=row["revision"],
        head=row["head"],
    )


def event_row(event: ConsentEvent) -> dict[str, Any]:
    """Return the row of an event."""
    return {
        "record_id": event.record_id,
        "revision": event.revision,
        "event_id": event.event_id,
        "payload": json.dumps(event.payload, ensure_ascii=False, separators=(",", ":")),
        "hash": event.hash,
        "signature": event.signature,
    }


def event_value(row: Mapping[Any, Any]) -> ConsentEvent:
    """Return the event of a row."""
    return ConsentEvent(
        record_id=row["record_id"],
        revision=row["revision"],
        event_id=row["event_id"],
        payload=json.loads(row["payload"]),
        hash=row["hash"],
        signature=row["signature"],
    )
