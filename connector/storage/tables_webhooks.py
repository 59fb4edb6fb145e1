"""Tables of webhooks and of consents kept by another service. Times are fixed-width UTC text."""

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text

from connector.storage.database import metadata

_ID = String(500)
_TIME = String(27)

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", String(64), primary_key=True),
    Column("url", String(1000), nullable=False),
    Column("events", JSON, nullable=False),
    Column("created_at", _TIME, nullable=False),
    # Nothing is sent while it is set; what happens meanwhile waits.
    Column("paused_at", _TIME),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("webhook_id", String(64), ForeignKey("webhooks.webhook_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("event_id", _ID, nullable=False),
    Column("body", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("due_at", _TIME, nullable=False),
    Column("last_status", Integer),
    Column("last_error", String(200)),
    Index("ix_webhook_deliveries_status_due_at", "status", "due_at"),
)

# Which of our records came from another consent service, and what it calls them: their status is asked there again.
external_consents = Table(
    "external_consents",
    metadata,
    Column("record_id", String(64), primary_key=True),
    Column("subject_ref", String(32), nullable=False),
    Column("dataset_id", _ID, nullable=False),
    Column("purpose", _ID, nullable=False),
    Column("consent_id", _ID, nullable=False, index=True),
    Column("user_id", _ID, nullable=False),
    Index("ix_external_consents_dataset_id_purpose", "dataset_id", "purpose"),
)
