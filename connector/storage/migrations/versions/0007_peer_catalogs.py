"""Peers' catalogs as they were last read; the code in a peer's refusal; questions by counterparty."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("dsp_outbox", sa.Column("last_code", sa.String(64), nullable=True))
    # SQLite takes an index for a page only if it gives the whole order.
    for column in ("counterparty", "dataset"):
        if column == "dataset":
            op.drop_index("ix_dsp_agreements_dataset", "dsp_agreements")
        op.create_index(f"ix_dsp_agreements_{column}", "dsp_agreements", [f"{column}_id", "concluded_at", "id"])
    for name, column in (("counterparty", "counterparty_id"), ("dataset", "dataset_id"), ("state", "state")):
        if name != "counterparty":
            op.drop_index(f"ix_dsp_processes_{name}", "dsp_processes")
        op.create_index(f"ix_dsp_processes_{name}", "dsp_processes", ["kind", column, "created_at", "pid"])
    op.create_table(
        "dsp_peer_catalogs",
        sa.Column("participant_id", sa.String(255), nullable=False),
        sa.Column("attempted_at", sa.BigInteger(), nullable=True),
        sa.Column("succeeded_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(64), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("datasets", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("participant_id", name=op.f("pk_dsp_peer_catalogs")),
    )
    op.create_index("ix_dsp_peer_catalogs_due", "dsp_peer_catalogs", ["due_at"])
    op.create_table(
        "dsp_peer_catalog_pages",
        sa.Column("participant_id", sa.String(255), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("following", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("participant_id", "page", name=op.f("pk_dsp_peer_catalog_pages")),
    )
    op.create_table(
        "dsp_peer_catalog_datasets",
        sa.Column("participant_id", sa.String(255), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("place", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("dataset_id", sa.String(2048), nullable=False),
        sa.Column("formats", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("participant_id", "page", "place", name=op.f("pk_dsp_peer_catalog_datasets")),
    )
    op.create_index("ix_dsp_peer_catalog_datasets_id", "dsp_peer_catalog_datasets", ["dataset_id"])


def downgrade() -> None:
    for table in ("dsp_peer_catalog_datasets", "dsp_peer_catalog_pages", "dsp_peer_catalogs"):
        op.drop_table(table)
    for table in ("dsp_agreements", "dsp_processes"):
        op.drop_index(f"ix_{table}_counterparty", table)
    op.drop_column("dsp_outbox", "last_code")
