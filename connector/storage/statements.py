"""Statements written in SQLAlchemy Core, compiled once per dialect and executed through the driver.

A negotiation runs some twenty statements; building and compiling them anew, or converting types on the way, costs more
than the database does. Only statements whose text never changes belong here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Dialect
from sqlalchemy.sql import ClauseElement


class Statement:
    """One compiled statement."""

    def __init__(self, element: ClauseElement, dialect: Dialect, *, columns: Sequence[str] | None = None) -> None:
        """Compile ``element``; ``columns`` are the column names that an INSERT or UPDATE sets."""
        compiled = element.compile(dialect=dialect, column_keys=list(columns) if columns else None)
        self._text = str(compiled)
        self._order: Sequence[str] | None = getattr(compiled, "positiontup", None)
        self._defaults: Mapping[str, Any] = dict(compiled.params)

    def run(self, connection: Connection, **values: Any) -> CursorResult[Any]:
        """Execute with the given bind values."""
        return connection.exec_driver_sql(self._text, self._bound(values))

    def run_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute once per row."""
        bound = [self._bound(row) for row in rows]
        connection.exec_driver_sql(self._text, bound if len(bound) > 1 else bound[0])

    def _bound(self, values: Mapping[str, Any]) -> Any:
        merged = {**self._defaults, **values}
        return merged if self._order is None else tuple(merged[name] for name in self._order)
