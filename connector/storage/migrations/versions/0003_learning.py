"""Learning: plans, jobs, rounds, steps, seats, and the work that is due."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROUND = (("job_id", sa.String(255)), ("round", sa.Integer), ("attempt", sa.Integer))
_PARTICIPANT = ("participant_id", sa.String(255))

# Every table of records: its key columns, its state, and the whole record as JSON.
_RECORDS = {
    "own_plans": (("plan_digest", sa.String(64)),),
    "jobs": (("job_id", sa.String(255)),),
    "job_members": (("job_id", sa.String(255)), _PARTICIPANT),
    "job_lines": (("job_id", sa.String(255)), ("number", sa.Integer)),
    "rounds": _ROUND,
    "round_notices": (*_ROUND, _PARTICIPANT),
    "seat_shares": (*_ROUND, ("seat", sa.Integer), ("number", sa.Integer)),
    "clear_uploads": (*_ROUND, _PARTICIPANT),
    "received_plans": (("plan_digest", sa.String(64)), ("agreement_id", sa.String(255))),
    "participations": (("job_id", sa.String(255)),),
    "steps": _ROUND,
    "seat_rounds": _ROUND,
    "seat_uploads": (*_ROUND, _PARTICIPANT),
}


def upgrade() -> None:
    for name, key in _RECORDS.items():
        op.create_table(
            name,
            *(sa.Column(column, kind, nullable=False, autoincrement=False) for column, kind in key),
            sa.Column("state", sa.String(32), nullable=True),
            sa.Column("value", sa.JSON, nullable=False),
            sa.PrimaryKeyConstraint(*(column for column, _ in key), name=f"pk_{name}"),
        )
    op.create_table(
        "work",
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("publish_at", sa.Float, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("published", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("lease", sa.String(64), nullable=True),
        sa.Column("lease_owner", sa.String(255), nullable=True),
        sa.Column("lease_until", sa.Float, nullable=True),
        sa.Column("error", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("task", "key", name="pk_work"),
    )
    op.create_index("ix_work_publish_at", "work", ["publish_at"])


def downgrade() -> None:
    op.drop_table("work")
    for name in reversed(_RECORDS):
        op.drop_table(name)
