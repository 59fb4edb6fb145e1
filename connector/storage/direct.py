"""The databases' own shortest ways: statements and transactions past SQLAlchemy (PostgreSQL: ``direct_postgresql``).

Text, whole numbers, floats, truth values and NULL only.
"""

import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias

from sqlalchemy import Connection, Dialect

_UNIQUE_VIOLATION: Final = "23505"
_DUPLICATED: Final = re.compile(r"UNIQUE constraint failed: (\w+)\.")

Values: TypeAlias = Sequence[Any]


class Given(tuple[list[Any], int]):
    """What one execution gave: its rows, and how many rows it changed."""

    __slots__ = ()


class Prepared(Protocol):
    """One statement, ready to run."""

    def run(self, connection: Connection, values: Values) -> Given:
        """Execute with values in the statement's order."""
        ...

    def later(self, connection: Connection, values: Values) -> None:
        """Execute before whatever comes next in this transaction; where it fails, that fails with its error."""
        ...

    def ask(self, connection: Connection, values: Values, heard: Callable[[Given], None]) -> None:
        """As :meth:`later`; ``heard`` is told what it gave, at the latest when the transaction has been committed."""
        ...


class Direct(Protocol):
    """One kind of database."""

    dialect: Dialect

    def prepare(self, text: str) -> Prepared:
        """Return a statement whose text never changes."""
        ...

    def begin(self, connection: Connection, *, writing: bool) -> None:
        """Open a transaction; one that may write holds what a writer needs from its start."""
        ...

    def flush(self, connection: Connection) -> None:
        """Execute what was left for later: before anything that goes another way."""
        ...

    def forget(self, connection: Connection) -> None:
        """Drop what was left for later: the transaction is given up."""
        ...

    def commit(self, connection: Connection) -> None:
        """Commit what :meth:`begin` has opened, with what was left for later."""
        ...

    def changes(self, connection: Connection) -> int:
        """Return a number that grows with every row changed on this connection, where the database counts."""
        ...


class DirectSqlite:
    """SQLite: one writer, who says so at once; readers see the state at their first look."""

    def __init__(self, dialect: Dialect) -> None:
        """Take the dialect that statements are compiled for."""
        self.dialect = dialect

    def prepare(self, text: str) -> Prepared:
        """See the protocol."""
        return _SqliteStatement(text)

    def begin(self, connection: Connection, *, writing: bool) -> None:
        """See the protocol."""
        driver: Any = connection.connection.dbapi_connection
        driver.execute("BEGIN IMMEDIATE" if writing else "BEGIN")

    def flush(self, connection: Connection) -> None:
        """See the protocol."""

    def forget(self, connection: Connection) -> None:
        """See the protocol."""

    def commit(self, connection: Connection) -> None:
        """See the protocol."""
        driver: Any = connection.connection.dbapi_connection
        driver.commit()

    def changes(self, connection: Connection) -> int:
        """See the protocol."""
        driver: Any = connection.connection.dbapi_connection
        found: int = driver.total_changes
        return found


class _SqliteStatement:
    def __init__(self, text: str) -> None:
        self.text = text
        self._row: Any = None

    def run(self, connection: Connection, values: Values) -> Given:
        driver: Any = connection.connection.dbapi_connection
        cursor: sqlite3.Cursor = driver.execute(self.text, values)
        if cursor.description is None:
            return Given(([], cursor.rowcount))
        if self._row is None:
            self._row = row_of([column[0] for column in cursor.description])
        return Given(([self._row(*values) for values in cursor.fetchall()], cursor.rowcount))

    def later(self, connection: Connection, values: Values) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.execute(self.text, values)

    def ask(self, connection: Connection, values: Values, heard: Callable[[Given], None]) -> None:
        heard(self.run(connection, values))


def direct(dialect: Dialect) -> Direct:
    """Return the shortest way to the kind of database that ``dialect`` is for."""
    if dialect.name != "postgresql":
        return DirectSqlite(dialect)
    from connector.storage.direct_postgresql import DirectPostgresql  # noqa: PLC0415 - only where this database is used

    return DirectPostgresql()


def duplicated(error: BaseException) -> str | None:
    """Return the table in which a key or another unique value was taken already, where that is what ``error`` says."""
    if isinstance(error, sqlite3.IntegrityError):
        found = _DUPLICATED.search(str(error))
        return found[1] if found else None
    if getattr(error, "sqlstate", None) != _UNIQUE_VIOLATION:
        return None
    table: str | None = error.diag.table_name  # type: ignore[attr-defined] # a psycopg.Error; it is imported only where used
    return table


def row_of(columns: Sequence[str]) -> Any:
    """Return a kind of row: a tuple whose members have the columns' names."""
    return namedtuple("Row", columns)  # noqa: PYI024 - its fields are known only now
