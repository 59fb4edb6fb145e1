"""What seats answered in a challenge, kept where the shares in question are. Short-lived, as all of a round."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "sketch_answers",
        sa.Column("job_id", sa.String(255), nullable=False, autoincrement=False),
        sa.Column("round", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("group", sa.String(255), nullable=False, autoincrement=False),
        sa.Column("participant_id", sa.String(255), nullable=False, autoincrement=False),
        sa.Column("state", sa.String(32), nullable=True),
        sa.Column("value", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("job_id", "round", "attempt", "group", "participant_id", name="pk_sketch_answers"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("sketch_answers")
