"""CSV and Parquet sources: allowed rows only, and one clear sentence for what is wrong."""

import copy
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from connector.sources.dry_run import dry_run
from connector.sources.opened import OpenedSource, open_source
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location, SourceError
from learning.views import parse_view

ROWS = """pupil,school,age,town,late,mark,fold
001,ash,14,a,yes,8,1
002,ash,15,b,no,12,2
003,ash,16,c,no,15,3
004,birch,17,a,yes,3,1
005,ash,,z,no,9,4
"""
VIEW: dict[str, Any] = {
    "name": "marks",
    "shape": "outcomes",
    "subject": "pupil",
    "parameters": {"school": {}, "fold": {"default": "1"}},
    "source": {
        "kind": "csv",
        "tables": {"marks": {"files": "marks.csv", "subject": "pupil", "keep": {"school": "$school"}}},
    },
    "features": [
        {"column": "age", "fill": 0},
        {"column": "town", "type": "category", "values": ["a", "b", "c"], "other": True},
        {"column": "late", "type": "boolean"},
    ],
    "label": {"name": "fails", "expression": "mark < 10"},
    "split": {"by": "fold", "column": "fold", "test": "$fold"},
}


def source_of(folder: Path, rows: str = ROWS, **changes: Any) -> OpenedSource:
    """Write the rows and open a view over them."""
    (folder / "marks.csv").write_text(rows, encoding="utf-8")
    return open_source(parse_view(copy.deepcopy(VIEW) | changes), Location(folder=folder, parameters={"school": "ash"}))


def ref(subject: str) -> str:
    """Make a pseudonym that a reader can follow."""
    return f"ref-{subject}"


def test_only_allowed_subjects_rows_are_handed_on(tmp_path: Path) -> None:
    """Rows of others are dropped at the source, and the counts say what was kept."""
    table = source_of(tmp_path).read(frozenset({"ref-001", "ref-003", "ref-999"}), ref)
    assert table.data.column("pupil").to_pylist() == ["001", "003"]
    assert (table.rows_read, table.subjects_read) == (2, 2)


def test_nobody_allowed_means_no_row(tmp_path: Path) -> None:
    """An empty set is not the same as no limit."""
    source = source_of(tmp_path)
    assert source.read(frozenset(), ref).data.num_rows == 0
    with pytest.raises(SourceError, match="no row of a learner who may be read"):
        build_snapshot(source, frozenset(), ref, tmp_path / "data.safetensors")


def test_a_query_sees_no_row_of_others(tmp_path: Path) -> None:
    """Even a sum over the table is over allowed subjects: the filter comes before the query."""
    source = dict(
        VIEW["source"], query="select pupil, age, town, late, fold, mark, sum(mark) over () as total from marks"
    )
    table = source_of(tmp_path, source=source).read(frozenset({"ref-001", "ref-002"}), ref)
    assert table.data.column("total").to_pylist() == [20, 20]


def test_a_join_cannot_bring_a_subject_in(tmp_path: Path) -> None:
    """A table that names no subject is filtered by the result's subject column."""
    tables = {"marks": {"files": "marks.csv"}, "more": {"files": "marks.csv"}}
    source = {"kind": "csv", "tables": tables, "query": "select more.* from more where more.school = $school"}
    table = source_of(tmp_path, source=source).read(frozenset({"ref-2"}), ref)
    assert table.data.column("pupil").to_pylist() == ["2"]


def test_the_snapshot_holds_what_the_view_says(tmp_path: Path) -> None:
    """Numbers, one-hot values, truth values, label and folds land in the arrays; no subject id does."""
    out = tmp_path / "data.safetensors"
    facts = build_snapshot(source_of(tmp_path), None, ref, out)
    arrays = load_file(out)
    assert arrays["X"].tolist() == [
        [14, 1, 0, 0, 0, 1],
        [15, 0, 1, 0, 0, 0],
        [16, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
    ]
    assert arrays["y"].tolist() == [1, 0, 0, 1]
    assert arrays["split"].tolist() == [2, 1, 0, 0]
    assert (facts.rows, facts.subjects, facts.train_rows) == (4, 4, 2)
    assert b"001" not in out.read_bytes()
    assert out.stat().st_mode & 0o777 == 0o600


def test_scales_come_from_train_rows_alone(tmp_path: Path) -> None:
    """A z-score uses the mean and the sample deviation of rows that train; a constant becomes 0."""
    rows = "pupil,school,age,same,mark,fold\n" + "".join(
        f"{index},ash,{age},7,5,{fold}\n"
        for index, (age, fold) in enumerate([(100, 1), (50, 2), (2, 3), (4, 3), (6, 4)])
    )
    features = [{"column": "age", "scale": "z-score"}, {"column": "same", "scale": "z-score"}]
    out = tmp_path / "data.safetensors"
    build_snapshot(source_of(tmp_path, rows, features=features), None, ref, out)
    assert load_file(out)["X"].tolist() == [[48, 0], [23, 0], [-1, 0], [0, 0], [1, 0]]


def test_a_snapshot_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    """The same rows give the same digest."""
    source = source_of(tmp_path)
    digests = {build_snapshot(source, None, ref, tmp_path / f"{name}.safetensors").digest for name in "ab"}
    assert len(digests) == 1


def test_parquet_and_compressed_csv_give_the_same_rows(tmp_path: Path) -> None:
    """The kind of file does not matter."""
    plain = source_of(tmp_path).read(None, ref).data
    (tmp_path / "marks.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    table = {"files": "marks.csv.gz", "keep": {"school": "$school"}}
    packed = source_of(tmp_path, source={"kind": "csv", "tables": {"marks": table}}).read(None, ref).data
    names = ["school", "age", "mark"]
    pq.write_table(
        pa.table({name: plain.column(name) for name in plain.column_names if name != "fails"}), tmp_path / "m.parquet"
    )
    stored = source_of(tmp_path, source={"kind": "parquet", "tables": {"marks": {"files": "m.parquet"}}})
    assert packed.select(names).equals(plain.select(names))
    assert stored.read(None, ref).data.select(names).equals(plain.select(names))


def test_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    """It is stable while the file is, and changes with it."""
    source = source_of(tmp_path)
    before = source.fingerprint()
    assert before == source.fingerprint()
    source_of(tmp_path, ROWS + "006,ash,14,a,no,20,5\n")
    assert source.fingerprint() != before


def test_a_query_reaches_no_file(tmp_path: Path) -> None:
    """A view's SQL cannot read what the view does not name."""
    (tmp_path / "secret.csv").write_text("a\n1\n", encoding="utf-8")
    source = dict(VIEW["source"], query=f"from '{tmp_path / 'secret.csv'}'")
    with pytest.raises(SourceError, match="more than the view's tables"):
        source_of(tmp_path, source=source).read(None, ref)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            ROWS.replace("age", "years"),
            {},
            r"column age is not in .* \(has: .*years.*\): fix the view file or the export",
        ),
        (ROWS.replace("school", "scool"), {}, "column school is not in table marks"),
        (ROWS.replace("\n002,ash,15", "\n002,ash"), {}, r"marks\.csv line 3: the line has another number of columns"),
        (ROWS, {"label": {"name": "fails", "expression": "marc < 10"}}, "label of view marks does not fit"),
        (ROWS, {"features": [{"column": "age"}]}, "column age is empty in 1 rows: give it a fill"),
        (ROWS, {"features": [{"column": "town"}]}, "column town is not a number"),
        (ROWS, {"features": [{"column": "town", "type": "category", "values": ["a"]}]}, "does not list in 3 rows"),
        (ROWS, {"features": [{"column": "town", "type": "boolean"}]}, "column town is not yes or no"),
        (ROWS, {"label": {"name": "age"}, "features": [{"column": "mark"}]}, "is not yes or no"),
        (ROWS.replace(",4\n", ",9\n"), {}, "must hold folds 1 to 5"),
    ],
)
def test_a_source_that_does_not_fit_says_what_to_fix(
    tmp_path: Path, rows: str, changes: dict[str, Any], message: str
) -> None:
    """Each mismatch gives one sentence that names the place and the remedy."""
    with pytest.raises(SourceError, match=message):
        build_snapshot(source_of(tmp_path, rows, **changes), None, ref, tmp_path / "out")


def test_a_typed_column_names_the_line_and_no_value(tmp_path: Path) -> None:
    """A text in a number column is found by its line; the text itself may be personal and is not shown."""
    table = {"files": "marks.csv", "types": {"mark": "number"}}
    source = source_of(tmp_path, ROWS.replace(",12,", ",Jane Doe,"), source={"kind": "csv", "tables": {"marks": table}})
    with pytest.raises(SourceError, match=r"marks\.csv line 3: column 6") as caught:
        source.read(None, ref)
    assert "Jane" not in str(caught.value)


def test_a_missing_file_or_folder_is_said(tmp_path: Path) -> None:
    """A source that disappeared is named, and so is a folder that is not there."""
    source = source_of(tmp_path)
    (tmp_path / "marks.csv").unlink()
    with pytest.raises(SourceError, match=r"no file marks\.csv"):
        source.read(None, ref)
    gone = open_source(source.view, Location(folder=tmp_path / "gone", parameters={"school": "ash"}))
    with pytest.raises(SourceError, match="does not exist"):
        gone.read(None, ref)


def test_a_row_without_a_subject_is_never_read(tmp_path: Path) -> None:
    """Nobody can have consented for it; the owner's dry run says so."""
    source = source_of(tmp_path, ROWS.replace("003,", ","))
    assert source.read(frozenset({"ref-001", "ref-", "ref-None"}), ref).rows_read == 1
    with pytest.raises(SourceError, match="1 rows have no value in the subject column"):
        source.read(None, ref)


def test_the_dry_run_counts_and_finds_the_first_problem(tmp_path: Path) -> None:
    """Rows, subjects, missing shares and split are told; a problem does not hide them."""
    found = dry_run(source_of(tmp_path))
    assert (found.rows, found.subjects, found.well) == (4, 4, True)
    assert found.split == {"train": 2, "valid": 1, "test": 1}
    assert {column.name: column.missing_share for column in found.columns}["age"] == 0.25
    broken = dry_run(source_of(tmp_path, features=[{"column": "age"}]))
    assert broken.rows == 4
    assert broken.problem is not None
