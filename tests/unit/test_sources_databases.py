"""SQL sources on SQLite, DuckDB and a real PostgreSQL: read-only, allowed rows only."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from connector.sources.opened import OpenedSource, open_source
from connector.sources.source import Location, SourceError
from learning.views import parse_view

SCHEMA = "create table marks (pupil integer, school varchar(10), mark integer)"
ROWS = "insert into marks values (1, 'ash', 8), (2, 'ash', 12), (2, 'ash', 14), (3, 'birch', 5), (4, 'ash', 9)"
QUERY = "select pupil, mark, mark < 10 as fails from marks where school = $school and mark % 100 >= 0 order by mark"


def sqlite_database(folder: Path) -> str:
    """Make the table in an SQLite file."""
    connection = sqlite3.connect(folder / "marks.db")
    connection.execute(SCHEMA)
    connection.execute(ROWS)
    connection.commit()
    connection.close()
    return "sqlite:///marks.db"


def duckdb_database(folder: Path) -> str:
    """Make the table in a DuckDB file."""
    with duckdb.connect(str(folder / "marks.duckdb")) as connection:
        connection.execute(SCHEMA)
        connection.execute(ROWS)
    return "duckdb:///marks.duckdb"


@pytest.fixture(params=["sqlite", "duckdb", "postgresql"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The table in each kind of database."""
    if request.param == "sqlite":
        return sqlite_database(tmp_path)
    if request.param == "duckdb":
        return duckdb_database(tmp_path)
    new: Callable[[], str] = request.getfixturevalue("postgresql_server")
    url = new().replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(url) as server:
        server.execute(SCHEMA)
        server.execute(ROWS)
    return url


def source_of(folder: Path, connection: str, query: str = QUERY) -> OpenedSource:
    """Open a view over the query."""
    document: dict[str, Any] = {
        "name": "marks",
        "shape": "outcomes",
        "subject": "pupil",
        "parameters": {"school": {}},
        "source": {"kind": "sql", "query": query},
        "features": [{"column": "mark"}],
        "label": {"name": "fails"},
    }
    place = Location(folder=folder, connection=connection, parameters={"school": "ash"})
    return open_source(parse_view(document), place)


def test_a_query_yields_allowed_rows(tmp_path: Path, connection: str) -> None:
    """Parameters are bound, and only rows of allowed subjects leave the database."""
    source = source_of(tmp_path, connection)
    assert source.read(None, str).rows_read == 4
    table = source.read(frozenset({"2", "3"}), str)
    assert table.data.column("pupil").to_pylist() == ["2", "2"]
    assert (table.rows_read, table.subjects_read) == (2, 1)
    assert source.read(frozenset(), str).data.num_rows == 0


def test_a_source_cannot_be_written(tmp_path: Path, connection: str) -> None:
    """Whatever stands in the query, the database stays as it was."""
    with pytest.raises(SourceError):
        source_of(tmp_path, connection, "delete from marks returning pupil, mark, true as fails").read(None, str)
    assert source_of(tmp_path, connection).read(None, str).rows_read == 4


def test_a_query_that_does_not_fit_is_the_views_fault(tmp_path: Path, connection: str) -> None:
    """A wrong column is a mismatch of the view, with no text of the driver but the column."""
    with pytest.raises(SourceError) as caught:
        source_of(tmp_path, connection, QUERY.replace("school =", "scool =")).read(None, str)
    assert caught.value.code == "view-mismatch"


@pytest.mark.parametrize("address", ["sqlite:///none.db", "mysql://x", ""])
def test_a_database_that_is_not_there_is_said(tmp_path: Path, address: str) -> None:
    """A missing file and an unknown kind are the configuration's fault."""
    with pytest.raises(SourceError) as caught:
        source_of(tmp_path, address).read(None, str)
    assert caught.value.code == "source-missing"


def test_a_server_that_is_down_is_the_worlds_fault(tmp_path: Path) -> None:
    """The password is not repeated."""
    with pytest.raises(SourceError) as caught:
        source_of(tmp_path, "postgresql://u:secret@127.0.0.1:1/db").read(None, str)
    assert (caught.value.code, caught.value.whose) == ("source-unreachable", "world")
    assert "secret" not in str(caught.value)
