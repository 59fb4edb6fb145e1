"""The dry run: read a source as its owner, encode it, say what was found; nothing is stored."""

import dataclasses
from typing import Any

from connector.sources.encoding import encode
from connector.sources.opened import OpenedSource
from connector.sources.snapshot import count_train_rows
from connector.sources.source import SourceError
from learning.splits import SPLIT_NAMES
from learning.views import output_digest, output_spec, view_digest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """One column of the view's rows."""

    name: str
    type: str
    missing_share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a view finds at its source; for the owner's eyes."""

    view: str
    view_digest: str
    output_digest: str
    output: dict[str, Any]
    rows_read: int
    rows: int
    subjects: int
    columns: tuple[ColumnFacts, ...]
    split: dict[str, int]
    """Rows (outcomes) or learners (responses) that train, validate and test; empty with a problem."""
    train_rows: int
    """Rows (outcomes) or answers (responses) that train."""
    positive_share: float | None
    """The share of label 1, or of correct answers."""
    problem: str | None
    """The first thing that keeps the rows from becoming arrays; one sentence."""

    @property
    def well(self) -> bool:
        """The source can be trained on as it is."""
        return self.problem is None


def dry_run(source: OpenedSource) -> DryRun:
    """Read all rows, count and encode them.

    Raises:
        SourceError: the rows cannot even be read.
    """
    view = source.view
    table = source.read(None, lambda subject: subject)
    data = table.data
    subjects = data.column(view.subject)
    problem: str | None = None if data.num_rows else "the view finds no row: check its parameters and the export"
    split: dict[str, int] = {}
    positive: float | None = None
    train_rows = 0
    if problem is None:
        try:
            arrays = encode(view, table, source.parameters)
            split = {name: int((arrays["split"] == code).sum()) for code, name in enumerate(SPLIT_NAMES)}
            train_rows = count_train_rows(arrays)
            positive = float(arrays["y" if "y" in arrays else "correct"].mean())
        except SourceError as error:
            problem = str(error)
    return DryRun(
        view=view.name,
        view_digest=view_digest(view),
        output_digest=output_digest(view),
        output=output_spec(view),
        rows_read=table.rows_read,
        rows=data.num_rows,
        subjects=len(set(subjects.to_pylist())),
        columns=tuple(
            ColumnFacts(
                name=name,
                type=str(data.column(name).type),
                missing_share=data.column(name).null_count / max(data.num_rows, 1),
            )
            for name in data.column_names
        ),
        split=split,
        train_rows=train_rows,
        positive_share=positive,
        problem=problem,
    )
