"""A view's SQL over tables in memory, in DuckDB with everything outside them locked away."""

from collections.abc import Mapping
from typing import Any

import duckdb

from connector.sources.source import SourceError
from learning.views import FeatureView, parameters_in

_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
}


def run_query(view: FeatureView, tables: Mapping[str, Any], bound: Mapping[str, str]) -> Any:
    """Return the rows (pyarrow.Table) of the view's query over ``tables``, the label's expression included.

    With one table and no query the table is the result. The order of rows is that of the query.

    Raises:
        SourceError: the query does not fit the tables, or a value does not fit its type.
    """
    query = view.source.query if view.source.kind != "sql" else None
    label = view.label.expression if view.label is not None else None
    only = next(iter(tables.values()))
    if query is None and label is None:
        return only
    with duckdb.connect(":memory:", config=_LOCKED) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        connection.execute("set lock_configuration = true")
        result = only if query is None else _run(connection, query, bound, f"query of view {view.name}")
        if label is None or view.label is None:
            return result
        connection.register("rows_of_view", result)
        listed = ", ".join(f'"{column}"' for column in result.column_names if column != view.label.name)
        sql = f'select {listed}, ({label}) as "{view.label.name}" from rows_of_view'  # noqa: S608 - the owner's own view
        return _run(connection, sql, bound, f"label of view {view.name}")


def _run(connection: Any, sql: str, bound: Mapping[str, str], what: str) -> Any:
    values = {name: bound[name] for name in parameters_in(sql)}
    try:
        return connection.sql(sql, params=values).to_arrow_table()
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as error:
        # These name columns and tables, never a value.
        reason = str(error).splitlines()[0]
        raise SourceError("view-mismatch", f"the {what} does not fit: {reason}: fix the view file") from None
    except duckdb.PermissionException:
        raise SourceError(
            "view-mismatch", f"the {what} reaches for more than the view's tables: fix the view file"
        ) from None
    except duckdb.Error as error:
        kind = type(error).__name__.removesuffix("Exception")
        raise SourceError(
            "source-malformed", f"the {what} fails on a value ({kind}): fix the export, or allow for it in the query"
        ) from None
