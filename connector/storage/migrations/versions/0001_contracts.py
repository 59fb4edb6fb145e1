"""Negotiations, transfers, agreements, datasets and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = "0000"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dsp_agreements",
        sa.Column("id", sa.String(length=2048), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("counterparty_id", sa.String(length=2048), nullable=False),
        sa.Column("counterparty_address", sa.String(length=2048), nullable=False),
        sa.Column("dataset_id", sa.String(length=2048), nullable=False),
        sa.Column("negotiation_pid", sa.String(length=2048), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("concluded_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dsp_agreements")),
    )
    op.create_index("ix_dsp_agreements_dataset", "dsp_agreements", ["dataset_id", "concluded_at"], unique=False)
    op.create_index("ix_dsp_agreements_newest", "dsp_agreements", ["concluded_at", "id"], unique=False)
    op.create_table(
        "dsp_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("pid", sa.String(length=2048), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("direction", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_dsp_events")),
    )
    op.create_index("ix_dsp_events_process", "dsp_events", ["pid", "seq"], unique=False)
    op.create_table(
        "dsp_outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("pid", sa.String(length=2048), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("message_id", sa.String(length=2048), nullable=False),
        sa.Column("audience", sa.String(length=2048), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("last_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_answer", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dsp_outbox")),
    )
    op.create_index(
        "ix_dsp_outbox_due",
        "dsp_outbox",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index("ix_dsp_outbox_process", "dsp_outbox", ["pid", "id"], unique=False)
    op.create_index(
        "ix_dsp_outbox_queued",
        "dsp_outbox",
        ["pid", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "dsp_policies",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_dsp_policies")),
    )
    op.create_table(
        "dsp_processes",
        sa.Column("pid", sa.String(length=2048), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("counterparty_id", sa.String(length=2048), nullable=False),
        sa.Column("counterparty_address", sa.String(length=2048), nullable=False),
        sa.Column("peer_pid", sa.String(length=2048), nullable=True),
        sa.Column("dataset_id", sa.String(length=2048), nullable=False),
        sa.Column("agreement_id", sa.String(length=2048), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("act_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("pid", name=op.f("pk_dsp_processes")),
        sa.UniqueConstraint(
            "counterparty_id",
            "peer_pid",
            "kind",
            "role",
            name=op.f("uq_dsp_processes_counterparty_id_peer_pid_kind_role"),
        ),
    )
    op.create_index("ix_dsp_processes_agreement", "dsp_processes", ["agreement_id"], unique=False)
    op.create_index("ix_dsp_processes_dataset", "dsp_processes", ["kind", "dataset_id", "created_at"], unique=False)
    op.create_index(
        "ix_dsp_processes_due",
        "dsp_processes",
        ["act_at"],
        unique=False,
        sqlite_where=sa.text("act_at IS NOT NULL"),
        postgresql_where=sa.text("act_at IS NOT NULL"),
    )
    op.create_index("ix_dsp_processes_newest", "dsp_processes", ["kind", "created_at", "pid"], unique=False)
    op.create_index("ix_dsp_processes_state", "dsp_processes", ["kind", "state", "created_at"], unique=False)
    op.create_table(
        "dsp_receipts",
        sa.Column("pid", sa.String(length=2048), nullable=False),
        sa.Column("message_id", sa.String(length=2048), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pid", "message_id", name=op.f("pk_dsp_receipts")),
    )
    op.create_table(
        "dsp_datasets",
        sa.Column("id", sa.String(length=2048), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("offer_id", sa.String(length=2048), nullable=False),
        sa.Column("policy_digest", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["policy_digest"], ["dsp_policies.digest"], name=op.f("fk_dsp_datasets_policy_digest")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dsp_datasets")),
    )
    op.create_table(
        "dsp_dataset_terms",
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=2048), nullable=False),
        sa.Column("dataset_id", sa.String(length=2048), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dsp_datasets.id"], name=op.f("fk_dsp_dataset_terms_dataset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("kind", "value", "dataset_id", name=op.f("pk_dsp_dataset_terms")),
    )
    op.create_index("ix_dsp_dataset_terms_dataset", "dsp_dataset_terms", ["dataset_id"], unique=False)
