"""SQL databases through their own drivers, opened read-only: SQLite, DuckDB and PostgreSQL.

The view's query is asked twice: for its subjects, then for the rows of those that are allowed, so that no other row
leaves the database.
"""

import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from connector.sources.admission import Admission
from connector.sources.files import as_text
from connector.sources.source import Location, SourceError
from learning.views import FeatureView, parameters_in

Rows: TypeAlias = tuple[list[str], list[tuple[Any, ...]]]
Ask: TypeAlias = Callable[[str, Mapping[str, Any]], Rows]
_CHUNK = 400


def read_database(view: FeatureView, location: Location, bound: Mapping[str, str], admission: Admission) -> Any:
    """Return the rows (pyarrow.Table) of the view's query that are of admitted subjects.

    Raises:
        SourceError: the database is not there, or the query does not fit it.
    """
    query = (view.source.query or "").strip().rstrip(";")
    values = {name: bound[name] for name in parameters_in(query)}
    try:
        with closing(_connect(location)) as connection:
            ask = _asker(connection, location.connection or "")
            # The owner's own query, wrapped: names come from the view file, values are parameters.
            _, found = ask(f'select distinct "{view.subject}" from ({query}) q', values)  # noqa: S608 - see above
            subjects = [row[0] for row in found if row[0] is not None and admission.admits(str(row[0]))]
            columns, rows = _rows_of(ask, view.subject, query, values, subjects)
    except SourceError:
        raise
    except Exception as error:
        raise _failed(error) from error
    table = pa.table({name: pa.array([row[index] for row in rows]) for index, name in enumerate(columns)})
    place = table.column_names.index(view.subject)
    table = table.set_column(place, view.subject, as_text(table.column(view.subject)))
    return admission.filter(table, view.subject)


def _rows_of(ask: Ask, subject: str, query: str, values: Mapping[str, Any], subjects: list[Any]) -> Rows:
    columns: list[str] = []
    rows: list[tuple[Any, ...]] = []
    for start in range(0, max(len(subjects), 1), _CHUNK):
        chunk = {f"orchard_{index}": value for index, value in enumerate(subjects[start : start + _CHUNK])}
        listed = ", ".join(f"${name}" for name in chunk) or "null"
        sql = f'select * from ({query}) q where "{subject}" in ({listed})'  # noqa: S608 - as above
        columns, found = ask(sql, {**values, **chunk})
        rows += found
    return columns, rows


def _connect(location: Location) -> Any:
    text = location.connection or ""
    kind, _, rest = text.partition(":///")
    if kind in {"sqlite", "duckdb"}:
        path = (location.folder or Path()) / rest
        if not path.is_file():
            raise SourceError("source-missing", f"no database file {path.name}: check the dataset's configuration")
        if kind == "sqlite":
            return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        return duckdb.connect(str(path), read_only=True, config={"enable_external_access": "false", "threads": "1"})
    if text.startswith(("postgresql://", "postgres://")):
        # Imported here: PostgreSQL's driver is an extra that file sources do without.
        import psycopg  # noqa: PLC0415 - see above

        connection = psycopg.connect(text, connect_timeout=10)
        connection.read_only = True
        return connection
    raise SourceError(
        "source-missing", "the connection must be sqlite:///, duckdb:/// or postgresql://: fix the dataset"
    )


def _asker(connection: Any, url: str) -> Ask:
    def ask(sql: str, values: Mapping[str, Any]) -> Rows:
        if url.startswith("postgres"):
            sql = re.sub(r"\$([A-Za-z_][A-Za-z0-9_]*)", r"%(\1)s", sql.replace("%", "%%"))
        cursor = connection.execute(sql, dict(values))
        return [column[0] for column in cursor.description], cursor.fetchall()

    return ask


def _failed(error: Exception) -> SourceError:
    """Say what kind of thing failed; the driver's text may hold a password or a row."""
    name = type(error).__name__
    text = str(error)
    missing = re.search(r'(no such (?:column|table): \S+|(?:column|relation) "[^"]+" does not exist)', text)
    if missing:
        return SourceError("view-mismatch", f"the query does not fit the database ({missing[1]}): fix the view file")
    if name in {"ProgrammingError", "ParserException", "BinderException", "CatalogException", "SyntaxError"}:
        return SourceError(
            "view-mismatch", f"the database does not accept the view's query ({name}): fix the view file"
        )
    return SourceError("source-unreachable", f"the database does not answer ({name}): ask who runs it", whose="world")
