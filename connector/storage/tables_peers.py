"""The table of participants we know. Times are Unix seconds."""

from sqlalchemy import JSON, BigInteger, Column, String, Table, Text

from connector.storage.database import metadata

peers = Table(
    "peers",
    metadata,
    Column("participant_id", String(255), primary_key=True),
    Column("name", String(500), nullable=False),
    Column("organisation", String(500), nullable=False),
    Column("address", String(500), nullable=False, index=True),
    Column("public_key", String(64), nullable=False),
    Column("roles", JSON, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("credential", Text, nullable=False),
)
