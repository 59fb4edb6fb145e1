"""Run by alembic: migrate the connection that connector.storage.migrate hands over."""

from alembic import context

from connector.storage.database import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter a table in place: alembic copies it.
    render_as_batch=True,
    transactional_ddl=True,
    # One transaction for the whole way: a database is at one version or the other, never between.
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
