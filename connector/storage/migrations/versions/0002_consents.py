"""Privacy notices, consent records with their events, and which rounds read whose rows."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "consent_notices",
        sa.Column("notice_id", sa.String(length=500), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("dataset_id", sa.String(length=500), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("published_at", sa.String(length=27), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("notice_id", "version", name=op.f("pk_consent_notices")),
    )
    op.create_table(
        "consent_purposes",
        sa.Column("dataset_id", sa.String(length=500), nullable=False),
        sa.Column("purpose", sa.String(length=500), nullable=False),
        sa.Column("notice_id", sa.String(length=500), nullable=False),
        sa.Column("material", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("dataset_id", "purpose", "notice_id", name=op.f("pk_consent_purposes")),
    )
    op.create_table(
        "consent_records",
        sa.Column("record_id", sa.String(length=64), nullable=False),
        sa.Column("subject_ref", sa.String(length=32), nullable=False),
        sa.Column("dataset_id", sa.String(length=500), nullable=False),
        sa.Column("purpose", sa.String(length=500), nullable=False),
        sa.Column("notice_id", sa.String(length=500), nullable=False),
        sa.Column("notice_version", sa.Integer(), nullable=False),
        sa.Column("language", sa.String(length=35), nullable=False),
        sa.Column("material", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("expires_at", sa.String(length=27), nullable=False),
        sa.Column("updated_at", sa.String(length=27), nullable=False),
        sa.Column("relation", sa.String(length=16), nullable=False),
        sa.Column("party_ref", sa.String(length=255), nullable=False),
        sa.Column("verification", sa.String(length=100), nullable=False),
        sa.Column("evidence_ref", sa.String(length=500), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("head", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_consent_records")),
        sa.UniqueConstraint(
            "subject_ref", "dataset_id", "purpose", name=op.f("uq_consent_records_subject_ref_dataset_id_purpose")
        ),
    )
    op.create_index("ix_consent_records_due", "consent_records", ["state", "expires_at"], unique=False)
    op.create_index(
        "ix_consent_records_gate",
        "consent_records",
        ["dataset_id", "purpose", "state", "expires_at", "material", "subject_ref"],
        unique=False,
    )
    op.create_table(
        "consent_use_spans",
        sa.Column("job_id", sa.String(length=500), nullable=False),
        sa.Column("dataset_id", sa.String(length=500), nullable=False),
        sa.Column("purpose", sa.String(length=500), nullable=False),
        sa.Column("subject_ref", sa.String(length=32), nullable=False),
        sa.Column("first_round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_round", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint(
            "job_id", "dataset_id", "purpose", "subject_ref", "first_round", name=op.f("pk_consent_use_spans")
        ),
    )
    op.create_index("ix_consent_use_spans_subject_ref", "consent_use_spans", ["subject_ref"], unique=False)
    op.create_table(
        "consent_uses",
        sa.Column("job_id", sa.String(length=500), nullable=False),
        sa.Column("dataset_id", sa.String(length=500), nullable=False),
        sa.Column("purpose", sa.String(length=500), nullable=False),
        sa.Column("last_round", sa.Integer(), nullable=False),
        sa.Column("noise", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "dataset_id", "purpose", name=op.f("pk_consent_uses")),
    )
    op.create_table(
        "consent_events",
        sa.Column("record_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.String(length=500), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("signature", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(["record_id"], ["consent_records.record_id"], name=op.f("fk_consent_events_record_id")),
        sa.PrimaryKeyConstraint("record_id", "revision", name=op.f("pk_consent_events")),
        sa.UniqueConstraint("event_id", name=op.f("uq_consent_events_event_id")),
    )


def downgrade() -> None:
    op.drop_table("consent_events")
    op.drop_table("consent_uses")
    op.drop_index("ix_consent_use_spans_subject_ref", table_name="consent_use_spans")
    op.drop_table("consent_use_spans")
    op.drop_index("ix_consent_records_gate", table_name="consent_records")
    op.drop_index("ix_consent_records_due", table_name="consent_records")
    op.drop_table("consent_records")
    op.drop_table("consent_purposes")
    op.drop_table("consent_notices")
