"""A job's uses remember who is in, as a checksum: a round in which nobody comes or goes reads no spans."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("consent_uses", sa.Column("members", sa.String(50), nullable=True))


def downgrade() -> None:
    op.drop_column("consent_uses", "members")
