"""The execution tree: groups at the collector, parcels and children's shares at seats. Rows of rounds are short-lived."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ROUND = (("job_id", sa.String(255)), ("round", sa.Integer), ("attempt", sa.Integer))
_GROUP = ("group", sa.String(255))
_OLD = {
    "seat_shares": (*_ROUND, ("seat", sa.Integer), ("number", sa.Integer)),
    "seat_rounds": _ROUND,
}
_NEW = {
    "group_attempts": (*_ROUND, _GROUP),
    "seat_shares": (*_ROUND, _GROUP, ("digest", sa.String(64))),
    "seat_rounds": (*_ROUND, _GROUP),
    "seat_parcels": (*_ROUND, _GROUP, ("participant_id", sa.String(255)), ("blob", sa.String(64))),
    "child_shares": (*_ROUND, _GROUP, ("digest", sa.String(64))),
}


def _create(tables: Mapping[str, Sequence[tuple[str, Any]]]) -> None:
    for name, key in tables.items():
        op.create_table(
            name,
            *(sa.Column(column, kind, nullable=False, autoincrement=False) for column, kind in key),
            sa.Column("state", sa.String(32), nullable=True),
            sa.Column("value", sa.JSON, nullable=False),
            sa.PrimaryKeyConstraint(*(column for column, _ in key), name=f"pk_{name}"),
        )


def upgrade() -> None:
    # A round under way loses what its seats had released: its attempt runs out of time and is made again.
    for name in _OLD:
        op.drop_table(name)
    _create(_NEW)


def downgrade() -> None:
    for name in reversed(_NEW):
        op.drop_table(name)
    _create(_OLD)
