"""Tables of negotiations, transfers, agreements, datasets and the outbox.

Times are whole microseconds since 1970 UTC. Only plain column types are used, because the hot statements go to the
driver without SQLAlchemy's type conversion (see ``statements``).
"""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint, text

from connector.storage.database import metadata

_ID = String(2048)
_WORD = String(64)
_SERIAL = BigInteger().with_variant(Integer, "sqlite")
_QUEUED = text("status = 'queued'")
_DUE = text("act_at IS NOT NULL")

processes = Table(
    "dsp_processes",
    metadata,
    Column("pid", _ID, primary_key=True),
    Column("kind", _WORD, nullable=False),
    Column("role", _WORD, nullable=False),
    Column("state", _WORD, nullable=False),
    Column("counterparty_id", _ID, nullable=False),
    Column("counterparty_address", _ID, nullable=False),
    Column("peer_pid", _ID),
    Column("dataset_id", _ID, nullable=False),
    Column("agreement_id", _ID),
    Column("details", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("act_at", BigInteger),
    # A peer's process id is its idempotency key: the same one never makes two processes.
    UniqueConstraint("counterparty_id", "peer_pid", "kind", "role"),
    Index("ix_dsp_processes_newest", "kind", "created_at", "pid"),
    Index("ix_dsp_processes_state", "kind", "state", "created_at", "pid"),
    Index("ix_dsp_processes_dataset", "kind", "dataset_id", "created_at", "pid"),
    Index("ix_dsp_processes_counterparty", "kind", "counterparty_id", "created_at", "pid"),
    Index("ix_dsp_processes_agreement", "agreement_id"),
    Index("ix_dsp_processes_due", "act_at", sqlite_where=_DUE, postgresql_where=_DUE),
)

events = Table(
    "dsp_events",
    metadata,
    Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    Column("pid", _ID, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("direction", _WORD, nullable=False),
    Column("step", _WORD, nullable=False),
    Column("state", _WORD, nullable=False),
    Column("reasons", Text, nullable=False),
    Index("ix_dsp_events_process", "pid", "seq"),
)

receipts = Table(
    "dsp_receipts",
    metadata,
    Column("pid", _ID, primary_key=True),
    Column("message_id", _ID, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("step", _WORD, nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

outbox = Table(
    "dsp_outbox",
    metadata,
    Column("id", _SERIAL, primary_key=True, autoincrement=True),
    Column("pid", _ID, nullable=False),
    Column("kind", _WORD, nullable=False),
    Column("step", _WORD, nullable=False),
    Column("message_id", _ID, nullable=False),
    Column("audience", _ID, nullable=False),
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("status", _WORD, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("lease", _WORD),
    Column("lease_until", BigInteger),
    Column("last_attempt_at", BigInteger),
    Column("last_status", Integer),
    Column("last_code", _WORD),
    Column("last_answer", Text),
    Index("ix_dsp_outbox_due", "due_at", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
    Index("ix_dsp_outbox_process", "pid", "id"),
)

agreements = Table(
    "dsp_agreements",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("role", _WORD, nullable=False),
    Column("counterparty_id", _ID, nullable=False),
    Column("counterparty_address", _ID, nullable=False),
    Column("dataset_id", _ID, nullable=False),
    Column("negotiation_pid", _ID, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("concluded_at", BigInteger, nullable=False),
    Index("ix_dsp_agreements_newest", "concluded_at", "id"),
    Index("ix_dsp_agreements_dataset", "dataset_id", "concluded_at", "id"),
    Index("ix_dsp_agreements_counterparty", "counterparty_id", "concluded_at", "id"),
)

policies = Table(
    "dsp_policies",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("body", Text, nullable=False),
)

datasets = Table(
    "dsp_datasets",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("title", Text, nullable=False),
    Column("offer_id", _ID, nullable=False),
    Column("policy_digest", String(64), ForeignKey("dsp_policies.digest"), nullable=False),
    Column("body", Text, nullable=False),
    Column("words", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

dataset_terms = Table(
    "dsp_dataset_terms",
    metadata,
    Column("kind", _WORD, primary_key=True),
    Column("value", _ID, primary_key=True),
    Column("dataset_id", _ID, ForeignKey("dsp_datasets.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_dsp_dataset_terms_dataset", "dataset_id"),
)
