"""Statements written in SQLAlchemy Core, compiled once per dialect and executed through the driver.

A negotiation runs some twenty statements; building and compiling them anew, converting types on the way, or wrapping
each execution costs more than the database does. Only statements whose text never changes belong here. Their errors
are the driver's own; ``Database.run`` knows them.
"""

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.sql import ClauseElement


class Result:
    """What one execution gave: rows with attributes named like their columns, or how many rows it changed."""

    __slots__ = ("_cursor", "_statement")

    def __init__(self, statement: "Statement", cursor: Any) -> None:
        """Read from the driver's ``cursor``."""
        self._statement = statement
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        """How many rows were changed."""
        return int(self._cursor.rowcount)

    def first(self) -> Any:
        """Return the first row, or ``None``."""
        values = self._cursor.fetchone()
        row = None if values is None else self._statement.row(self._cursor, values)
        self._cursor.close()
        return row

    def one(self) -> Any:
        """Return the first row of a statement that always gives one.

        Raises:
            LookupError: it gave none.
        """
        row = self.first()
        if row is None:
            raise LookupError("a statement that always gives a row gave none")
        return row

    def all(self) -> list[Any]:
        """Return every row."""
        rows = [self._statement.row(self._cursor, row) for row in self._cursor.fetchall()]
        self._cursor.close()
        return rows


class Statement:
    """One compiled statement."""

    def __init__(self, element: ClauseElement, dialect: Dialect, *, columns: Sequence[str] | None = None) -> None:
        """Compile ``element``; ``columns`` are the column names that an INSERT or UPDATE sets."""
        compiled = element.compile(dialect=dialect, column_keys=list(columns) if columns else None)
        self._text = str(compiled)
        self._order: Sequence[str] | None = getattr(compiled, "positiontup", None)
        self._defaults: Mapping[str, Any] = dict(compiled.params)
        self._row: Any = None

    def run(self, connection: Connection, **values: Any) -> Result:
        """Execute with the given bind values."""
        cursor = connection.connection.cursor()
        cursor.execute(self._text, self._bound(values))
        return Result(self, cursor)

    def run_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute once per row."""
        cursor = connection.connection.cursor()
        for row in rows:
            cursor.execute(self._text, self._bound(row))

    def row(self, cursor: Any, values: Sequence[Any]) -> Any:
        """Return a driver's row with its columns' names."""
        if self._row is None:
            self._row = namedtuple("Row", [column[0] for column in cursor.description])  # type: ignore[misc] # noqa: PYI024 - its fields are known only now
        return self._row._make(values)

    def _bound(self, values: Mapping[str, Any]) -> Any:
        merged = {**self._defaults, **values}
        return merged if self._order is None else tuple(merged[name] for name in self._order)
