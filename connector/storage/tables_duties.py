"""Tables of duties and of how agreements stand. Times are fixed-width UTC text."""

from sqlalchemy import JSON, Boolean, Column, Float, String, Table

from connector.storage.database import metadata

_ID = String(500)
_TIME = String(27)

duties = Table(
    "duties",
    metadata,
    Column("duty_id", String(64), primary_key=True),
    Column("agreement_id", _ID, nullable=False, index=True),
    Column("kind", _ID, nullable=False),
    Column("holder", _ID, nullable=False),
    Column("terms", _ID, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("due_at", _TIME, nullable=True, index=True),
    Column("fulfilled_at", _TIME, nullable=True),
    Column("evidence", JSON, nullable=True),
    # What it counts from, how long after that it is due, and when that was; the job whose end it was.
    Column("begins", String(16), nullable=False, server_default="agreement"),
    Column("seconds", Float, nullable=True),
    Column("began_at", _TIME, nullable=True),
    Column("job_id", String(255), nullable=True),
)

# What has become of an agreement after it was concluded: the agreement itself is never changed.
agreement_standings = Table(
    "agreement_standings",
    metadata,
    Column("agreement_id", _ID, primary_key=True),
    Column("standing", String(16), nullable=False),
    Column("reason", _ID, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("duties_noted", Boolean, nullable=False),
)
