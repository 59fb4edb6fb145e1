"""Duties and the standing of agreements, webhooks, consents kept elsewhere; decisions say about what and for whom."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, length in (("policy_id", 500), ("assignee", 500), ("target", 500)):
        op.add_column("decisions", sa.Column(name, sa.String(length), nullable=True))
    for name in ("duties", "deferred"):
        op.add_column("decisions", sa.Column(name, sa.JSON(), nullable=True))
    op.create_table(
        "duties",
        sa.Column("duty_id", sa.String(64), nullable=False),
        sa.Column("agreement_id", sa.String(500), nullable=False),
        sa.Column("kind", sa.String(500), nullable=False),
        sa.Column("holder", sa.String(500), nullable=False),
        sa.Column("terms", sa.String(500), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("due_at", sa.String(27), nullable=True),
        sa.Column("fulfilled_at", sa.String(27), nullable=True),
        sa.Column("evidence", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("duty_id", name=op.f("pk_duties")),
    )
    op.create_index("ix_duties_agreement_id", "duties", ["agreement_id"])
    op.create_index("ix_duties_due_at", "duties", ["due_at"])
    op.create_table(
        "agreement_standings",
        sa.Column("agreement_id", sa.String(500), nullable=False),
        sa.Column("standing", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("duties_noted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("agreement_id", name=op.f("pk_agreement_standings")),
    )
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("url", sa.String(1000), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("webhook_id", sa.String(64), nullable=False),
        sa.Column("event_id", sa.String(500), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("due_at", sa.String(27), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.webhook_id"],
            name=op.f("fk_webhook_deliveries_webhook_id_webhooks"),
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_webhook_deliveries_status_due_at", "webhook_deliveries", ["status", "due_at"])
    op.create_index("ix_webhook_deliveries_webhook_id", "webhook_deliveries", ["webhook_id"])
    op.create_table(
        "external_consents",
        sa.Column("record_id", sa.String(64), nullable=False),
        sa.Column("subject_ref", sa.String(32), nullable=False),
        sa.Column("dataset_id", sa.String(500), nullable=False),
        sa.Column("purpose", sa.String(500), nullable=False),
        sa.Column("consent_id", sa.String(500), nullable=False),
        sa.Column("user_id", sa.String(500), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_external_consents")),
    )
    op.create_index("ix_external_consents_dataset_id_purpose", "external_consents", ["dataset_id", "purpose"])


def downgrade() -> None:
    for name in ("external_consents", "webhook_deliveries", "webhooks", "agreement_standings", "duties"):
        op.drop_table(name)
    for name in ("deferred", "duties", "target", "assignee", "policy_id"):
        op.drop_column("decisions", name)
