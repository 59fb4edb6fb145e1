"""The decision log: what was asked of a policy, and the answer. Times are fixed-width UTC text. No subject ids."""

from sqlalchemy import JSON, BigInteger, Column, Integer, String, Table

from connector.storage.database import metadata

decisions = Table(
    "decisions",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", String(27), nullable=False, index=True),
    Column("scope", String(32), nullable=False),
    Column("agreement_id", String(500), nullable=False, index=True),
    Column("job_id", String(255)),
    Column("round", Integer),
    Column("verdict", String(16), nullable=False),
    Column("reasons", JSON, nullable=False),
)
