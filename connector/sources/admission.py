"""Whose rows may be read: the one place where a source asks, used by every adapter before it keeps a row."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connector.sources.source import SourceError, SubjectRef


class Admission:
    """The subjects allowed in one reading, and a count of what was kept."""

    def __init__(self, allowed: frozenset[str] | None, subject_ref: SubjectRef) -> None:
        """Hold the allowed pseudonyms (None: everybody) and how to make one."""
        self._allowed = allowed
        self._subject_ref = subject_ref
        self._known: dict[str, bool] = {}
        self.rows = 0
        self._seen: set[str] = set()
        self._population: set[str] = set()

    def admits(self, subject: str) -> bool:
        """Say whether a subject's rows may be read."""
        self._population.add(subject)
        if self._allowed is None:
            return True
        answer = self._known.get(subject)
        if answer is None:
            answer = self._known[subject] = self._subject_ref(subject) in self._allowed
        return answer

    def count(self, subject: str) -> None:
        """Note one row that was kept."""
        self.rows += 1
        self._seen.add(subject)

    @property
    def subjects(self) -> int:
        """How many subjects the kept rows are of."""
        return len(self._seen)

    @property
    def population(self) -> frozenset[str]:
        """The ids of all subjects that were asked about, allowed or not: nothing of theirs but that they exist."""
        return frozenset(self._population)

    def filter(self, table: Any, column: str, *, count: bool = True) -> Any:
        """Return the rows of ``table`` (pyarrow) whose text ``column`` names an admitted subject.

        Raises:
            SourceError: a row names no subject (only when everybody is allowed; else such a row is left out).
        """
        subjects = table.column(column)
        if self._allowed is None and subjects.null_count:
            raise SourceError(
                "source-malformed",
                f"{subjects.null_count} rows have no value in the subject column {column}: fix the export",
            )
        distinct = pc.unique(subjects).drop_null()
        admitted = [subject for subject in distinct.to_pylist() if self.admits(subject)]
        if len(admitted) != len(distinct) or subjects.null_count:
            table = table.filter(pc.is_in(subjects, value_set=pa.array(admitted, pa.string())))
        if count:
            self.rows += table.num_rows
            self._seen.update(admitted)
        return table
