"""Migrations: a fresh database, a current one, a foreign one."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

import connector.storage
from connector.storage.database import Database, metadata
from connector.storage.migrate import DatabaseUnavailableError, SchemaVersionError, head, require_current, upgrade


def test_an_empty_database_becomes_current(database_url: str) -> None:
    """Migrating an empty database makes it usable; a second time there is nothing to do."""
    database = Database(database_url)
    with pytest.raises(SchemaVersionError, match="run orchard migrate"):
        require_current(database)
    assert upgrade(database_url)
    require_current(database)
    assert not upgrade(database_url)
    database.close()


def test_migrations_make_what_the_tables_say(database: Database) -> None:
    """The migrated schema has the tables, columns and indexes that the code declares."""
    for file in Path(connector.storage.__file__).parent.glob("tables_*.py"):
        __import__(f"connector.storage.{file.stem}")
    found = sa.inspect(database.engine)
    assert set(found.get_table_names()) - {"alembic_version"} == set(metadata.tables)
    for name, table in metadata.tables.items():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(name)}
        assert columns == {column.name: column.nullable for column in table.columns}, name
        indexes = {index["name"] for index in found.get_indexes(name) if not index.get("duplicates_constraint")}
        assert indexes == {index.name for index in table.indexes}, name


def test_a_newer_database_is_left_alone(database: Database) -> None:
    """A database of a later release is refused, not migrated."""
    database.run("alter", lambda tx: tx.connection.execute(sa.text("UPDATE alembic_version SET version_num = 'zzzz'")))
    with pytest.raises(SchemaVersionError, match="newer"):
        upgrade(database.url)


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    """An unreachable server gives one sentence that holds no password."""
    with pytest.raises(DatabaseUnavailableError) as caught:
        upgrade("postgresql+psycopg://ada:hunter2@127.0.0.1:1/orchard")
    assert "hunter2" not in str(caught.value)


def test_a_current_database_is_recognised_without_alembic(tmp_path: Path) -> None:
    """The fast path of a start does not import alembic."""
    url = f"sqlite:///{tmp_path}/o.sqlite"
    upgrade(url)
    code = f"import sys; from connector.storage.migrate import upgrade; upgrade({url!r}); sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_versions_form_one_line() -> None:
    """There is exactly one newest version."""
    assert head()
