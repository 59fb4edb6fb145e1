"""Duties that begin with an end; seconds and privacy spent beside the uses; webhooks that pause."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("duties", sa.Column("begins", sa.String(16), nullable=False, server_default="agreement"))
    op.add_column("duties", sa.Column("seconds", sa.Float(), nullable=True))
    op.add_column("duties", sa.Column("began_at", sa.String(27), nullable=True))
    op.add_column("duties", sa.Column("job_id", sa.String(255), nullable=True))
    op.add_column("consent_uses", sa.Column("agreement_id", sa.String(500), nullable=True))
    op.add_column("consent_uses", sa.Column("seconds", sa.Float(), nullable=False, server_default="0"))
    op.add_column("consent_uses", sa.Column("epsilon", sa.Float(), nullable=False, server_default="0"))
    op.create_index("ix_consent_uses_agreement_id", "consent_uses", ["agreement_id"])
    op.add_column("webhooks", sa.Column("paused_at", sa.String(27), nullable=True))
    op.create_index("ix_external_consents_consent_id", "external_consents", ["consent_id"])


def downgrade() -> None:
    op.drop_index("ix_external_consents_consent_id", "external_consents")
    op.drop_column("webhooks", "paused_at")
    op.drop_index("ix_consent_uses_agreement_id", "consent_uses")
    for name in ("epsilon", "seconds", "agreement_id"):
        op.drop_column("consent_uses", name)
    for name in ("job_id", "began_at", "seconds", "begins"):
        op.drop_column("duties", name)
