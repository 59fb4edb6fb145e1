"""Bring a database to this version's schema, and refuse to run on any other.

The versions are alembic's, in ``migrations/versions``. A database that is current is recognised from one row and the
files' own text, without importing alembic: that would be a seventh of the time a participant takes to start.
"""

import contextlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from connector.storage.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
_ASSIGNED = re.compile(r"^(revision|down_revision)\b[^=\n]*=\s*(?:[\"']([^\"']+)[\"']|None)", re.MULTILINE)
# Two processes that start at once must not migrate at once; any constant will do (PostgreSQL advisory lock key).
_LOCK = 0x6F726368617264


class SchemaVersionError(Exception):
    """The database's schema is not this version's; the operator's to mend."""

    code = "schema-version"


class DatabaseUnavailableError(Exception):
    """The database cannot be opened; the world's fault or the configuration's. The message holds no password."""

    code = "database-unavailable"


@cache
def head() -> str:
    """Return the newest schema version that this code knows.

    Raises:
        SchemaVersionError: the versions do not form one line; a fault of this release.
    """
    follows: dict[str, str | None] = {}
    for file in (_MIGRATIONS / "versions").glob("*.py"):
        assigned = {name: value or None for name, value in _ASSIGNED.findall(file.read_text(encoding="utf-8"))}
        if assigned.get("revision"):
            follows[str(assigned["revision"])] = assigned.get("down_revision")
    heads = set(follows) - set(follows.values())
    if len(heads) != 1:
        raise SchemaVersionError(f"this release's migrations do not form one line (ends: {', '.join(sorted(heads))})")
    return heads.pop()


def version(database: Database) -> str | None:
    """Return the schema version of ``database``; None when it is empty.

    Raises:
        DatabaseUnavailableError: it cannot be opened.
    """
    with _opened(database) as connection:
        try:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        except DBAPIError:
            connection.rollback()
            return None


def require_current(database: Database) -> None:
    """Refuse a database with another schema than this version's.

    Raises:
        SchemaVersionError: with what to do.
        DatabaseUnavailableError: it cannot be opened.
    """
    found = version(database)
    if found != head():
        if found is not None and found not in _known():
            raise SchemaVersionError(f"the database is at version {found}, which is newer than this release knows")
        at = "empty" if found is None else f"at version {found}"
        raise SchemaVersionError(f"the database is {at}, this release needs version {head()}: run orchard migrate")


def upgrade(url: str) -> bool:
    """Migrate the database at ``url`` to the newest version; return whether there was anything to do.

    Raises:
        SchemaVersionError: the database is newer than this release.
        DatabaseUnavailableError: it cannot be opened.
    """
    database = Database(url, pool_size=1)
    try:
        found = version(database)
        if found == head():
            return False
        if found is not None and found not in _known():
            require_current(database)
        _run(database)
    finally:
        database.close()
    return True


def _run(database: Database) -> None:
    from alembic import command  # noqa: PLC0415 - slow to import and seldom needed
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with _opened(database) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _known() -> frozenset[str]:
    files = (file.read_text(encoding="utf-8") for file in (_MIGRATIONS / "versions").glob("*.py"))
    return frozenset(value for one in files for name, value in _ASSIGNED.findall(one) if name == "revision")


@contextlib.contextmanager
def _opened(database: Database) -> Iterator[Connection]:
    try:
        connection = database.engine.connect()
    except OperationalError as error:
        place = database.engine.url.render_as_string(hide_password=True)
        raise DatabaseUnavailableError(f"the database {place} cannot be opened: {_first_line(error)}") from error
    with connection:
        yield connection


def _first_line(error: OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0]
