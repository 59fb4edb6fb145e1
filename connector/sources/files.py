"""CSV and Parquet files as named tables, without the rows that this provider, or this reading, may not use."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from connector.sources.admission import Admission
from connector.sources.source import SourceError
from learning.views import TableSpec, fill_parameters

_ROW = re.compile(r"Row #(\d+)")
_COLUMN = re.compile(r"In CSV column #(\d+)")
_TYPES = {"text": pa.string(), "number": pa.float64()}


def find_files(folder: Path, pattern: str, bound: Mapping[str, str]) -> list[Path]:
    """Return the files of a pattern below ``folder``, sorted.

    Raises:
        SourceError: there is none, or the pattern leaves the folder.
    """
    text = fill_parameters(pattern, bound)
    if text.startswith("/") or ".." in Path(text).parts:
        raise SourceError("view-mismatch", f"the file pattern {text} leaves the source's folder: fix the view file")
    if not folder.is_dir():
        raise SourceError("source-missing", f"the folder {folder} does not exist: check the dataset's configuration")
    found = sorted(path for path in folder.glob(text) if path.is_file())
    if not found:
        raise SourceError(
            "source-missing",
            f"no file {text} in {folder}: check the folder and the parameters, or export the data again",
        )
    return found


def fingerprint(paths: list[Path]) -> str:
    """Return a digest of the files' names, sizes and times of change."""
    facts = [f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in paths]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def read_table(
    name: str, spec: TableSpec, kind: str, *, folder: Path, bound: Mapping[str, str], admission: Admission | None
) -> Any:
    """Return one named table (pyarrow); ``admission`` None leaves every subject in (a provider list).

    Raises:
        SourceError: a file is missing or malformed, or a column that the view names is not there.
    """
    parts = [
        _read_csv(name, path, spec) if kind == "csv" else _read_parquet(path)
        for path in find_files(folder, spec.files, bound)
    ]
    try:
        table = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowInvalid:
        raise SourceError("source-malformed", f"the files of table {name} have different columns") from None
    if spec.row_number is not None:
        numbers = pa.array(range(1, table.num_rows + 1), pa.int64())
        table = table.append_column(spec.row_number, numbers.cast(pa.string()))
    for column, value in spec.keep.items():
        texts = as_text(require(table, column, name))
        table = table.filter(pc.equal(texts, fill_parameters(value, bound)))
    if spec.subject is None:
        return table
    require(table, spec.subject, name)
    index = table.column_names.index(spec.subject)
    table = table.set_column(index, spec.subject, as_text(table.column(spec.subject)))
    return table if admission is None else admission.filter(table, spec.subject)


def require(table: Any, column: str, name: str) -> Any:
    """Return a column of a table.

    Raises:
        SourceError: it is not there.
    """
    if column not in table.column_names:
        has = ", ".join(table.column_names[:40])
        raise SourceError(
            "view-mismatch", f"column {column} is not in table {name} (has: {has}): fix the view file or the export"
        )
    return table.column(column)


def as_text(column: Any) -> Any:
    """Return a column as text; whole floating-point numbers lose their point, so that an id reads as it was written."""
    if pa.types.is_floating(column.type):
        whole = pc.all(pc.equal(column, pc.floor(column))).as_py()
        column = pc.cast(column, pa.int64()) if whole else column
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())


def _read_csv(name: str, path: Path, spec: TableSpec) -> Any:
    types = {column: _TYPES[kind] for column, kind in spec.types.items()}
    if spec.subject is not None and spec.subject != spec.row_number:
        types.setdefault(spec.subject, pa.string())
    try:
        return pc_csv.read_csv(
            path,
            # One thread: only then does an error name its row, and a provider's cores are not ours to take.
            read_options=pc_csv.ReadOptions(use_threads=False, column_names=None if spec.header else spec.columns),
            parse_options=pc_csv.ParseOptions(delimiter=spec.delimiter),
            convert_options=pc_csv.ConvertOptions(
                column_types=types, null_values=list(spec.missing), strings_can_be_null=True
            ),
        )
    except pa.ArrowInvalid as error:
        raise _malformed(str(error), name, path, spec) from None
    except OSError as error:
        raise SourceError("source-malformed", f"{path.name} cannot be read: {error.strerror or 'damaged'}") from None


def _malformed(text: str, name: str, path: Path, spec: TableSpec) -> SourceError:
    """Say where a file is wrong; the library's own text would repeat the row."""
    row, column = _ROW.search(text), _COLUMN.search(text)
    # The library counts the header line as row 1, if it reads one.
    line = f" line {int(row[1])}" if row else ""
    if column:
        typed = list(spec.types)
        what = f"column {int(column[1]) + 1} does not hold what the view says ({', '.join(typed) or 'types'})"
        return SourceError("source-malformed", f"{path.name}{line}: {what}: fix the export, or types of table {name}")
    reason = "the line has another number of columns than the first" if row else "it is not a CSV file as the view says"
    return SourceError("source-malformed", f"{path.name}{line}: {reason}: fix the export")


def _read_parquet(path: Path) -> Any:
    try:
        return pq.read_table(path, use_threads=False)
    except (pa.ArrowInvalid, OSError):
        raise SourceError("source-malformed", f"{path.name} is not a readable Parquet file: export it again") from None
