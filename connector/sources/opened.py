"""Open a view over the place where a provider keeps its data."""

from typing import Any

from connector.sources import databases, files, queries, statements
from connector.sources.admission import Admission
from connector.sources.source import Location, SourceError, SubjectRef, Table
from learning.views import FeatureView, bind_parameters


class OpenedSource:
    """A view bound to a location; implements ``Source``. Nothing is read before ``read``."""

    def __init__(self, view: FeatureView, location: Location) -> None:
        """Bind the view's parameters.

        Raises:
            ViewError: a parameter is missing or unknown.
        """
        self.view = view
        self.parameters = bind_parameters(view, location.parameters)
        self._location = location

    def read(self, allowed_subjects: frozenset[str] | None, subject_ref: SubjectRef) -> Table:
        """Return the rows of allowed subjects; see ``Source.read``."""
        admission = Admission(allowed_subjects, subject_ref)
        result = queries.run_query(self.view, self._tables(admission), self.parameters)
        subject = files.require(result, self.view.subject, "the view's rows")
        place = result.column_names.index(self.view.subject)
        result = result.set_column(place, self.view.subject, files.as_text(subject))
        # Once more: a table that names no subject could have brought one in through a join.
        result = admission.filter(result, self.view.subject, count=False)
        for column in _columns(self.view):
            files.require(result, column, "the view's rows")
        return Table(
            data=result, rows_read=admission.rows, subjects_read=admission.subjects, population=admission.population
        )

    def fingerprint(self) -> str | None:
        """Return a digest of the files' names, sizes and times; None for a database or a record store."""
        patterns = [table.files for table in self.view.source.tables.values()]
        spec = self.view.source.statements
        if spec is not None and spec.files is not None:
            patterns.append(spec.files)
        if not patterns or self._location.folder is None:
            return None
        folder = self._location.folder
        paths = [path for pattern in patterns for path in files.find_files(folder, pattern, self.parameters)]
        return files.fingerprint(paths)

    def _tables(self, admission: Admission) -> dict[str, Any]:
        source, location = self.view.source, self._location
        if source.kind == "sql":
            return {"rows": databases.read_database(self.view, location, self.parameters, admission)}
        if source.statements is not None:
            return {"statements": self._statements(admission)}
        folder = self._folder()
        return {
            name: files.read_table(
                name, self._with_subject(name), source.kind, folder=folder, bound=self.parameters, admission=admission
            )
            for name in source.tables
        }

    def _with_subject(self, name: str) -> Any:
        table = self.view.source.tables[name]
        if table.subject is None and len(self.view.source.tables) == 1:
            return table.model_copy(update={"subject": self.view.subject})
        return table

    def _statements(self, admission: Admission) -> Any:
        spec = self.view.source.statements
        if spec is None:
            raise SourceError("view-mismatch", "an xapi source needs [source.statements]: fix the view file")
        separator = self.view.responses.separator if self.view.responses is not None else "|"
        if spec.files is None:
            found = statements.read_store(self._location)
        else:
            found = statements.read_lines(files.find_files(self._folder(), spec.files, self.parameters))
        return statements.statements_table(found, spec, separator, admission)

    def _folder(self) -> Any:
        if self._location.folder is None:
            raise SourceError("source-missing", "the dataset names no folder: set it in its configuration")
        return self._location.folder


def open_source(view: FeatureView, location: Location) -> OpenedSource:
    """Return the source that a view describes at a location; nothing is read yet.

    Raises:
        ViewError: a parameter of the view is missing or unknown.
    """
    return OpenedSource(view, location)


def _columns(view: FeatureView) -> list[str]:
    columns = [feature.column for feature in view.features]
    columns += [view.label.name] if view.label is not None else []
    if view.responses is not None:
        columns += [view.responses.item, view.responses.skills, view.responses.correct, view.responses.order]
    columns += [column for column in (view.split.column, view.time) if column is not None]
    return columns
