"""Pages of rows, newest first, in both directions: by (time, id), never by an offset."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, select, tuple_

from connector.storage.cursors import Cursor, read_cursor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of a page, newest first, with the cursors of the pages around it."""

    rows: Sequence[Any]
    following: str | None
    previous: str | None


def newest_first(
    connection: Connection,
    table: Table,
    wanted: Sequence[ColumnElement[bool]],
    *,
    order: tuple[ColumnElement[Any], ColumnElement[Any]],
    cursor: str | None,
    limit: int,
) -> Rows:
    """Read a page.

    Args:
        connection: where to read.
        table: what to read.
        wanted: which rows.
        order: the columns of the time and of the id that breaks ties.
        cursor: which page; the newest one without.
        limit: how many rows at most.

    Raises:
        CursorError: the cursor was not handed out here.
    """
    at = read_cursor(cursor, int, str) if cursor is not None else None
    backwards = at is not None and at.backwards
    statement = select(table).where(*wanted)
    if at is not None:
        place = tuple_(*order)
        statement = statement.where(place > at.place if backwards else place < at.place)
    ordered = [column if backwards else column.desc() for column in order]
    found = connection.execute(statement.order_by(*ordered).limit(limit + 1)).all()
    more, rows = len(found) > limit, found[:limit]
    if backwards:
        rows = rows[::-1]
    names = [str(column.key) for column in order]
    return Rows(
        rows=rows,
        following=_edge(rows[-1], names, backwards=False) if rows and (more or backwards) else None,
        previous=_edge(rows[0], names, backwards=True) if rows and (more if backwards else at is not None) else None,
    )


def _edge(row: Any, names: Sequence[str], *, backwards: bool) -> str:
    values = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    return Cursor(place=tuple(values[name] for name in names), backwards=backwards).text()
