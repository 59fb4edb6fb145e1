"""Tables of notices, consents and uses. Times are fixed-width UTC text: they sort as they read on both databases."""

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from connector.storage.database import metadata

_ID = String(500)
_SUBJECT = String(32)
_TIME = String(27)

consent_notices = Table(
    "consent_notices",
    metadata,
    Column("notice_id", _ID, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("dataset_id", _ID, nullable=False),
    Column("is_current", Boolean, nullable=False),
    Column("published_at", _TIME, nullable=False),
    Column("document", JSON, nullable=False),
)

# What the current notices say about each purpose: consents count only while their material is this one.
consent_purposes = Table(
    "consent_purposes",
    metadata,
    Column("dataset_id", _ID, primary_key=True),
    Column("purpose", _ID, primary_key=True),
    Column("notice_id", _ID, primary_key=True),
    Column("material", String(64), nullable=False),
)

consent_records = Table(
    "consent_records",
    metadata,
    Column("record_id", String(64), primary_key=True),
    Column("subject_ref", _SUBJECT, nullable=False),
    Column("dataset_id", _ID, nullable=False),
    Column("purpose", _ID, nullable=False),
    Column("notice_id", _ID, nullable=False),
    Column("notice_version", Integer, nullable=False),
    Column("language", String(35), nullable=False),
    Column("material", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("expires_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    Column("relation", String(16), nullable=False),
    Column("party_ref", String(255), nullable=False),
    Column("verification", String(100), nullable=False),
    Column("evidence_ref", String(500), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    UniqueConstraint("subject_ref", "dataset_id", "purpose"),
    # The gate's question is answered from this index alone.
    Index("ix_consent_records_gate", "dataset_id", "purpose", "state", "expires_at", "material", "subject_ref"),
    Index("ix_consent_records_due", "state", "expires_at"),
)

consent_events = Table(
    "consent_events",
    metadata,
    Column("record_id", String(64), ForeignKey("consent_records.record_id"), primary_key=True),
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("event_id", _ID, nullable=False, unique=True),
    # The payload as text: its hash covers these bytes' canonical form, and the database must not reorder or retype it.
    Column("payload", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("signature", String(100), nullable=False),
)

# One row per job and purpose with its last round; who was in is kept as spans that only change when somebody comes or
# goes, so that a round costs what changed and not the whole cohort.
consent_uses = Table(
    "consent_uses",
    metadata,
    Column("job_id", _ID, primary_key=True),
    Column("dataset_id", _ID, primary_key=True),
    Column("purpose", _ID, primary_key=True),
    Column("last_round", Integer, nullable=False),
    Column("noise", String(200), nullable=False),
    # Who is in at the last round (connector.storage.consent_uses); unknown for jobs of an earlier version.
    Column("members", String(50), nullable=True),
    # What the uses have cost so far: the agreement's metered time, and the dataset's privacy ledger.
    Column("agreement_id", _ID, nullable=True, index=True),
    Column("seconds", Float, nullable=False, server_default="0"),
    Column("epsilon", Float, nullable=False, server_default="0"),
)

consent_use_spans = Table(
    "consent_use_spans",
    metadata,
    Column("job_id", _ID, primary_key=True),
    Column("dataset_id", _ID, primary_key=True),
    Column("purpose", _ID, primary_key=True),
    Column("subject_ref", _SUBJECT, primary_key=True),
    Column("first_round", Integer, primary_key=True, autoincrement=False),
    Column("last_round", Integer, nullable=True),
    Index("ix_consent_use_spans_subject_ref", "subject_ref"),
)
