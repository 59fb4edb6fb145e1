"""View files on disk: load one, find the one for a folder, and list the providers and subjects it holds."""

import dataclasses
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import pyarrow as pa

from connector.sources import files
from connector.sources.opened import OpenedSource, open_source
from connector.sources.source import Location, SourceError
from learning.views import FeatureView, ProvidersSpec, TableSpec, ViewError, parse_view


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProviderEntry:
    """One provider that a data set's folder holds."""

    name: str
    """The parameters' values joined by ``-``, e.g. ``AAA-2013J``."""
    parameters: Mapping[str, str]
    rows: int
    subjects: int


def load_view(path: Path) -> FeatureView:
    """Return the view in a TOML file.

    Raises:
        ViewError: the file is not there, not TOML, or not a view; the message names the file.
    """
    try:
        return parse_view(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ViewError(f"there is no view file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ViewError(f"{path.name} is not TOML: {error}") from None
    except ViewError as error:
        raise ViewError(f"{path.name}: {error}") from None


def bundled_views() -> tuple[Path, ...]:
    """Return the view files that come with the connector."""
    folder = Path(str(resources.files("connector.demo") / "views"))
    return tuple(sorted(folder.glob("*.toml")))


def find_view(folder: Path) -> Path:
    """Return the view file for a data set's folder: one ``view.toml`` inside it, or a bundled one that names it.

    Raises:
        ViewError: no view fits.
    """
    own = folder / "view.toml"
    if own.is_file():
        return own
    known: list[str] = []
    for path in bundled_views():
        demo = load_view(path).demo
        if demo is not None and demo.folder == folder.resolve().name:
            return path
        known += [demo.folder] if demo is not None else []
    raise ViewError(
        f"no feature view for the folder {folder.name} (known: {', '.join(known)}): "
        "write one and put it into the folder as view.toml"
    )


def list_providers(view: FeatureView, folder: Path) -> list[ProviderEntry]:
    """Return the providers in a data set's folder, those with the most rows first.

    Raises:
        ViewError: the view says nothing of providers.
        SourceError: the folder does not fit the view.
    """
    spec = view.providers
    if spec is None:
        raise ViewError(f"view {view.name} has no [providers]: it says nothing of how the data fall into providers")
    found = _from_values(view, spec, folder) if spec.table is None else _from_table(view, spec, folder)
    enough = [entry for entry in found if entry.rows >= spec.min_rows and entry.subjects >= spec.min_subjects]
    return sorted(enough, key=lambda entry: (-entry.rows, entry.name))


def list_subjects(source: OpenedSource) -> tuple[str, ...]:
    """Return the source's own ids of all its subjects, sorted; for the owner, who asks them for consent."""
    table = source.read(None, lambda subject: subject)
    return tuple(sorted(set(table.data.column(source.view.subject).to_pylist())))


def _from_values(view: FeatureView, spec: ProvidersSpec, folder: Path) -> list[ProviderEntry]:
    entries = []
    for value in spec.values:
        parameters = {spec.parameters[0]: value}
        try:
            source = open_source(view, Location(folder=folder, parameters=parameters))
            table = source.read(None, lambda subject: subject)
        except SourceError as error:
            raise SourceError(error.code, f"{spec.parameters[0]} {value}: {error}", whose=error.whose) from error
        subjects = len(set(table.data.column(view.subject).to_pylist()))
        entries.append(ProviderEntry(name=value, parameters=parameters, rows=table.data.num_rows, subjects=subjects))
    return entries


def _from_table(view: FeatureView, spec: ProvidersSpec, folder: Path) -> list[ProviderEntry]:
    name = spec.table or ""
    table_spec = view.source.tables.get(name)
    if table_spec is None:
        raise ViewError(f"view {view.name}: [providers] names a table {name} that [source.tables] does not have")
    table = files.read_table(name, _every_row(table_spec), view.source.kind, folder=folder, bound={}, admission=None)
    subject = spec.subject or table_spec.subject or view.subject
    keys = [files.as_text(files.require(table, column, name)) for column in spec.columns]
    columns = [f"k{index}" for index in range(len(keys))]
    plain = pa.table([*keys, files.require(table, subject, name)], names=[*columns, "subject"])
    counted = plain.group_by(columns, use_threads=False).aggregate(
        [("subject", "count"), ("subject", "count_distinct")]
    )
    return [
        ProviderEntry(
            name="-".join(row[column] for column in columns),
            parameters=dict(zip(spec.parameters, (row[column] for column in columns), strict=True)),
            rows=row["subject_count"],
            subjects=row["subject_count_distinct"],
        )
        for row in counted.to_pylist()
        if all(row[column] for column in columns)
    ]


def _every_row(spec: TableSpec) -> TableSpec:
    if "$" in spec.files:
        raise SourceError("view-mismatch", "providers cannot be read from a table whose files are one provider's own")
    return spec.model_copy(update={"keep": {}})
