"""The decision log: what was asked of a policy, and the answer. Times are fixed-width UTC text. No subject ids."""

from sqlalchemy import JSON, BigInteger, Column, Integer, String, Table

from connector.storage.database import metadata

# agreement_id is empty for what was asked before there was one; policy_id then names the offer.
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
    Column("policy_id", String(500)),
    Column("assignee", String(500)),
    Column("target", String(500)),
    Column("duties", JSON),
    Column("deferred", JSON),
)
