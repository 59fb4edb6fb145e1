"""One index less on the outbox: a process's few rows are found by its id, whether they are queued or not."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    """Drop the index that every row written had to be entered in."""
    op.drop_index("ix_dsp_outbox_queued", "dsp_outbox")


def downgrade() -> None:
    """Make it again."""
    op.create_index(
        "ix_dsp_outbox_queued", "dsp_outbox", ["pid", "id"], sqlite_where=_QUEUED, postgresql_where=_QUEUED
    )
