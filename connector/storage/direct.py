"""The databases' own shortest ways: statements and transactions past SQLAlchemy, and past psycopg's cursors.

A prepared statement through libpq, which psycopg offers as ``psycopg.pq``, costs a tenth of the processor time of one
through SQLAlchemy and a sixth of one through a cursor. Text, whole numbers, floats, truth values and NULL only.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from sqlalchemy import Connection, Dialect
from sqlalchemy.dialects.postgresql.base import PGDialect

from policies.canonical import sha256_hex

Values: TypeAlias = Sequence[Any]
# libpq's "command ok" and "rows came".
_GOOD: Final = frozenset({1, 2})
_NO_SUCH_STATEMENT: Final = "26000"
_READERS: Final[Mapping[int, Callable[[bytes], Any]]] = {
    16: lambda value: value == b"t",
    20: int,
    21: int,
    23: int,
    700: float,
    701: float,
}


class Given(tuple[list[Any], int]):
    """What one execution gave: its rows, and how many rows it changed."""

    __slots__ = ()


class Prepared(Protocol):
    """One statement, ready to run."""

    def run(self, connection: Connection, values: Values) -> Given:
        """Execute with values in the statement's order."""
        ...


class Direct(Protocol):
    """One kind of database. ``driver`` is the driver's connection below an SQLAlchemy one."""

    dialect: Dialect

    def prepare(self, text: str) -> Prepared:
        """Return a statement whose text never changes."""
        ...

    def begin(self, driver: Any, *, writing: bool) -> None:
        """Open a transaction now; one that may write holds what a writer needs from its start."""
        ...

    def commit(self, driver: Any) -> None:
        """Commit what :meth:`begin` has opened."""
        ...

    def changes(self, driver: Any) -> int:
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

    def begin(self, driver: Any, *, writing: bool) -> None:
        """See the protocol."""
        driver.execute("BEGIN IMMEDIATE" if writing else "BEGIN")

    def commit(self, driver: Any) -> None:
        """See the protocol."""
        driver.commit()

    def changes(self, driver: Any) -> int:
        """See the protocol."""
        found: int = driver.total_changes
        return found


class _SqliteStatement:
    def __init__(self, text: str) -> None:
        self._text = text
        self._row: Any = None

    def run(self, connection: Connection, values: Values) -> Given:
        driver: Any = connection.connection.dbapi_connection
        cursor: sqlite3.Cursor = driver.execute(self._text, values)
        if cursor.description is None:
            return Given(([], cursor.rowcount))
        if self._row is None:
            self._row = _row_of([column[0] for column in cursor.description])
        return Given(([self._row(*values) for values in cursor.fetchall()], cursor.rowcount))


class DirectPostgresql:
    """PostgreSQL: each statement is prepared once per connection."""

    def __init__(self) -> None:
        """Take a dialect that writes places as ``$1``, as the server reads them."""
        self.dialect: Dialect = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped

    def prepare(self, text: str) -> Prepared:
        """See the protocol."""
        return _PostgresqlStatement(text)

    def begin(self, driver: Any, *, writing: bool) -> None:  # noqa: ARG002 - readers and writers do not wait for each other
        """See the protocol."""
        _good(driver, driver.pgconn.exec_(b"BEGIN"))

    def commit(self, driver: Any) -> None:
        """See the protocol."""
        result = _good(driver, driver.pgconn.exec_(b"COMMIT"))
        if result.command_status != b"COMMIT":
            raise RuntimeError("a statement of this transaction had failed, and its error was passed over")

    def changes(self, driver: Any) -> int:  # noqa: ARG002 - the protocol's signature
        """See the protocol."""
        return 0


class _PostgresqlStatement:
    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._name = f"orchard_{sha256_hex(self._text)[:32]}".encode()
        self._row: Any = None
        self._readers: list[Callable[[bytes], Any]] = []

    def run(self, connection: Connection, values: Values) -> Given:
        driver: Any = connection.connection.dbapi_connection
        known: set[bytes] = connection.info.setdefault("prepared", set())
        if self._name not in known:
            _good(driver, driver.pgconn.prepare(self._name, self._text))
            known.add(self._name)
        result = driver.pgconn.exec_prepared(self._name, [_sent(value) for value in values])
        if result.status not in _GOOD:
            error = _error(driver, result)
            if error.sqlstate == _NO_SUCH_STATEMENT:
                known.clear()
            raise error
        columns = range(result.nfields)
        if not columns:
            return Given(([], result.command_tuples or 0))
        if self._row is None:
            self._readers = [_READERS.get(result.ftype(column), bytes.decode) for column in columns]
            self._row = _row_of([(result.fname(column) or b"").decode() for column in columns])
        get = result.get_value
        rows = []
        for number in range(result.ntuples):
            found = [get(number, column) for column in columns]
            rows.append(
                self._row(
                    *[None if value is None else read(value) for value, read in zip(found, self._readers, strict=True)]
                )
            )
        return Given((rows, result.command_tuples or 0))


def direct(dialect: Dialect) -> Direct:
    """Return the shortest way to the kind of database that ``dialect`` is for."""
    return DirectPostgresql() if dialect.name == "postgresql" else DirectSqlite(dialect)


def _row_of(columns: Sequence[str]) -> Any:
    return namedtuple("Row", columns)  # noqa: PYI024 - its fields are known only now


def _sent(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    data = str(value).encode()
    if b"\0" in data:
        import psycopg  # noqa: PLC0415 - only where this database is used

        raise psycopg.DataError("PostgreSQL's text holds no NUL")
    return data


def _good(driver: Any, result: Any) -> Any:
    if result.status not in _GOOD:
        raise _error(driver, result)
    return result


def _error(driver: Any, result: Any) -> Any:
    import psycopg  # noqa: PLC0415 - only where this database is used

    if driver.closed:
        return psycopg.OperationalError("the connection to the database was lost")
    return psycopg.errors.error_from_result(result)
