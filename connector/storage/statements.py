"""Statements written in SQLAlchemy Core, compiled once per database and executed the shortest way there is.

A negotiation runs some forty statements; building and compiling them anew, converting types on the way, or wrapping
each execution costs more than the database does. Only statements whose text never changes belong here. Their errors
are the driver's own; ``Database.run`` knows them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.sql import ClauseElement

from connector.storage.direct import Direct, Given


class Result:
    """What one execution gave: rows with attributes named like their columns, or how many rows it changed."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, given: Given) -> None:
        """Take what the database gave."""
        self._rows, self.rowcount = given

    def first(self) -> Any:
        """Return the first row, or ``None``."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """Return the first row of a statement that always gives one.

        Raises:
            LookupError: it gave none.
        """
        if not self._rows:
            raise LookupError("a statement that always gives a row gave none")
        return self._rows[0]

    def all(self) -> list[Any]:
        """Return every row."""
        return self._rows


class Statement:
    """One compiled statement."""

    def __init__(self, element: ClauseElement, way: Direct, *, columns: Sequence[str] | None = None) -> None:
        """Compile ``element``; ``columns`` are the column names that an INSERT or UPDATE sets."""
        compiled = element.compile(dialect=way.dialect, column_keys=list(columns) if columns else None)
        self._prepared = way.prepare(str(compiled))
        self._order: Sequence[str] = compiled.positiontup or ()  # type: ignore[attr-defined] # every dialect here has places
        self._defaults: Mapping[str, Any] = dict(compiled.params)

    def run(self, connection: Connection, **values: Any) -> Result:
        """Execute with the given bind values."""
        return Result(self._prepared.run(connection, self._placed(values)))

    def later(self, connection: Connection, **values: Any) -> None:
        """Execute before whatever comes next in this transaction, which fails with its error where it fails."""
        self._prepared.later(connection, self._placed(values))

    def ask(self, connection: Connection, heard: Callable[[Result], None], /, **values: Any) -> None:
        """Execute as :meth:`later`; ``heard`` is told the result, at the latest when the transaction is committed.

        It must not refuse: what it is told may be final.
        """
        self._prepared.ask(connection, self._placed(values), lambda given: heard(Result(given)))

    def _placed(self, values: Mapping[str, Any]) -> list[Any]:
        defaults = self._defaults
        return [values[name] if name in values else defaults[name] for name in self._order]
