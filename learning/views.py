"""Feature views: how one source becomes typed columns, written by a user and named by its digest.

A view has one of two shapes. **outcomes**: one row per subject or enrolment, features and one binary label.
**responses**: the answers of a subject in order, each with its skills and whether it was correct (knowledge tracing).
Nothing here reads data; ``connector/sources`` does. A view holds no secret and no address: where a table lies and
which school this is are parameters (``$school``) bound by the provider.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.canonical import digest

Shape: TypeAlias = Literal["outcomes", "responses"]
SourceKind: TypeAlias = Literal["csv", "parquet", "xapi", "sql"]

_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
_PARAMETER = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
Name: TypeAlias = Annotated[str, Field(pattern=_NAME, max_length=64)]


class ViewError(ValueError):
    """A view is malformed, or its parameters are; the fault is in the view file or the dataset's configuration."""

    code = "view-invalid"
    whose = "ours"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class TableSpec(_Section):
    """One named table of a csv or parquet source."""

    files: str
    """A glob below the source's folder; ``$parameter`` is replaced. Several files are read one after another."""
    header: bool = True
    columns: tuple[str, ...] = ()
    """The column names when the file has no header line."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    missing: tuple[str, ...] = ("",)
    """Texts that mean a missing value."""
    subject: str | None = None
    """The column that names the subject; rows of subjects that are not allowed are dropped before any query."""
    row_number: Name | None = None
    """Adds a column of this name with the row's number in the file, from 1, as a subject when the file names none."""
    types: dict[str, Literal["text", "number"]] = {}
    keep: dict[str, str] = {}
    """Rows kept: column equals value (``$parameter`` allowed); what belongs to another provider is dropped here."""


class StatementSpec(_Section):
    """Where an xAPI statement keeps what a response needs (xAPI 1.0.3 part 2, section 2)."""

    files: str | None = None
    """A glob of .jsonl files below the source's folder; without it the statements come from a Learning Record Store."""
    verbs: tuple[str, ...] = ("http://adlnet.gov/expapi/verbs/answered",)
    skills: Literal["grouping", "category", "parent", "other", "extension"] = "grouping"
    skill_prefix: str = ""
    """Only contextActivities whose id starts so are skills; the prefix is cut off."""
    extension: str | None = None
    """The IRI of the context extension that lists the skills, with ``skills = "extension"``."""


class SourceSpec(_Section):
    """What to read. ``query`` is SQL: DuckDB's over the named tables, or the database's own with kind ``sql``."""

    kind: SourceKind
    tables: dict[Name, TableSpec] = {}
    statements: StatementSpec | None = None
    query: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> "SourceSpec":
        if self.kind in {"csv", "parquet"} and not self.tables:
            raise ValueError(f"a {self.kind} source needs at least one [source.tables.NAME]")
        if self.kind in {"csv", "parquet"} and len(self.tables) > 1 and self.query is None:
            raise ValueError("a source of several tables needs a query that joins them")
        if self.kind == "sql" and (self.query is None or self.tables):
            raise ValueError("an sql source needs a query, and has no tables")
        if self.kind == "xapi" and self.statements is None:
            raise ValueError("an xapi source needs [source.statements]")
        return self


class FeatureSpec(_Section):
    """One input column and how it becomes numbers."""

    column: Name
    type: Literal["number", "category", "boolean"] = "number"
    scale: Literal["none", "z-score", "min-max"] = "none"
    """From the provider's own train rows; a z-score divides by the sample deviation (n-1). Constants are left at 0."""
    fill: float | None = None
    """What stands for a missing number or boolean; without it a row with a missing value is an error."""
    values: tuple[str, ...] = ()
    drop_first: bool = False
    other: bool = False
    """A further column for a value that is not listed, missing ones included; without it such a value is an error."""

    @model_validator(mode="after")
    def _complete(self) -> "FeatureSpec":
        if (self.type == "category") != bool(self.values):
            raise ValueError(f"feature {self.column}: values are given for a category, and only then")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"feature {self.column}: a value is listed twice")
        return self


class LabelSpec(_Section):
    """The label, 0 or 1: a column of the query, or an SQL expression over its columns."""

    name: Name
    expression: str | None = None
    meaning: str = ""


class ResponseSpec(_Section):
    """The columns of an answer."""

    item: Name = "item"
    skills: Name = "skills"
    separator: Annotated[str, Field(min_length=1, max_length=1)] = "|"
    vocabulary: Annotated[int, Field(ge=1, le=100_000)] | tuple[str, ...]
    """How many skills there are (their ids are 0..n-1), or their names in order."""
    correct: Name = "correct"
    order: Name = "time"
    """Answers of one subject are sorted by this column (a time, or a step number)."""


class SplitSpec(_Section):
    """Which rows train (0), validate (1) and test (2)."""

    by: Literal["fold", "hash", "stratified"] = "hash"
    column: Name | None = None
    """With ``fold``: the column with the fold number, 1..folds; without one the subjects are dealt into equal folds."""
    folds: Annotated[int, Field(ge=3, le=100)] = 5
    test: str = "1"
    """With ``fold``: the test fold; the next one validates, the others train. ``$parameter`` allowed."""
    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """With ``hash`` and ``stratified``: the share that trains."""
    valid: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """With ``hash``: the share that validates; the rest tests."""
    seed: int = 0
    salt: str = ""
    """What dealing and hashing are salted with besides the seed; ``$parameter`` allowed."""

    @model_validator(mode="after")
    def _complete(self) -> "SplitSpec":
        if self.by != "fold" and self.column is not None:
            raise ValueError("split: a column is given with by = 'fold', and only then")
        if self.by == "hash" and self.train + self.valid >= 1:
            raise ValueError("split: train and valid leave nothing to test")
        return self


class ParameterSpec(_Section):
    """A value that the provider supplies; required when there is no default."""

    about: str = ""
    default: str | None = None


class ProvidersSpec(_Section):
    """How a folder of one data set falls into providers; used to try a federation out on one machine."""

    parameters: tuple[Name, ...]
    values: tuple[str, ...] = ()
    """The values of the one parameter, when they are not read from a table."""
    table: Name | None = None
    columns: tuple[str, ...] = ()
    """The columns of ``table`` whose distinct values are the parameters'."""
    subject: str | None = None
    min_rows: int = 0
    min_subjects: int = 0

    @model_validator(mode="after")
    def _complete(self) -> "ProvidersSpec":
        if bool(self.values) == (self.table is not None):
            raise ValueError("providers: give either values or a table")
        if len(self.columns if self.table else self.parameters[:1]) != len(self.parameters):
            raise ValueError("providers: one column for each parameter")
        return self


class DemoSpec(_Section):
    """The folder that `orchard demo --data` recognises the view by."""

    folder: str


class FeatureView(_Section):
    """A complete view. ``parse_view`` makes one."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    title: str = ""
    shape: Shape
    subject: Name
    """The column that names the subject: it joins consent and never leaves the provider."""
    time: Name | None = None
    source: SourceSpec
    features: tuple[FeatureSpec, ...] = ()
    label: LabelSpec | None = None
    responses: ResponseSpec | None = None
    split: SplitSpec = SplitSpec()
    parameters: dict[Name, ParameterSpec] = {}
    providers: ProvidersSpec | None = None
    demo: DemoSpec | None = None

    @model_validator(mode="after")
    def _complete(self) -> "FeatureView":
        if self.shape == "outcomes" and (not self.features or self.label is None or self.responses is not None):
            raise ValueError("a view of outcomes has [[features]] and a [label], and no [responses]")
        if self.shape == "responses" and (self.features or self.label is not None or self.responses is None):
            raise ValueError("a view of responses has [responses], and no features or label")
        if self.shape == "responses" and self.split.by == "stratified":
            raise ValueError("split: stratified is for outcomes")
        columns = [feature.column for feature in self.features]
        if len(set(columns)) != len(columns):
            raise ValueError("a feature column is listed twice")
        undeclared = sorted(_used_parameters(self) - set(self.parameters))
        if undeclared:
            raise ValueError(f"${undeclared[0]} is used but not declared under [parameters]")
        return self


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputColumn:
    """One number of a row as a model sees it."""

    name: str
    type: Literal["number", "indicator"]


def parse_view(document: Mapping[str, Any]) -> FeatureView:
    """Return the view that a parsed TOML or JSON document describes.

    Raises:
        ViewError: one sentence on the first thing that is wrong and where; it never repeats a value of the document.
    """
    try:
        return FeatureView.model_validate(dict(document))
    except ValidationError as error:
        raise ViewError(_first_problem(error)) from None


def view_digest(view: FeatureView) -> str:
    """Return the SHA-256 (hex) that names the view; titles, provider lists and demo folders do not count."""
    return digest(view.model_dump(mode="json", exclude_defaults=True, exclude={"title", "providers", "demo"}))


def output_columns(view: FeatureView) -> tuple[OutputColumn, ...]:
    """Return the columns of X in order; empty for a view of responses."""
    columns: list[OutputColumn] = []
    for feature in view.features:
        if feature.type == "category":
            kept = (*feature.values[1 if feature.drop_first else 0 :], *(("other",) if feature.other else ()))
            columns += [OutputColumn(name=f"{feature.column}={value}", type="indicator") for value in kept]
        else:
            kind: Literal["number", "indicator"] = "indicator" if feature.type == "boolean" else "number"
            columns.append(OutputColumn(name=feature.column, type=kind))
    return tuple(columns)


def skill_count(view: FeatureView) -> int:
    """Return the number of skill ids of a view of responses; 0 for outcomes."""
    if view.responses is None:
        return 0
    vocabulary = view.responses.vocabulary
    return vocabulary if isinstance(vocabulary, int) else len(vocabulary)


def output_spec(view: FeatureView) -> dict[str, Any]:
    """Return what the view yields, as JSON: enough for an AI provider to match a model, and nothing of the source.

    Two views over different systems with the same output can train one model; :func:`output_digest` names it.
    """
    if view.responses is not None:
        return {"shape": "responses", "skills": skill_count(view), "vocabulary": _vocabulary(view.responses)}
    columns = [dataclasses.asdict(column) for column in output_columns(view)]
    label = None if view.label is None else {"name": view.label.name, "meaning": view.label.meaning}
    return {"shape": "outcomes", "inputs": len(columns), "columns": columns, "label": label}


def output_digest(view: FeatureView) -> str:
    """Return the SHA-256 (hex) of :func:`output_spec`."""
    return digest(output_spec(view))


def bind_parameters(view: FeatureView, given: Mapping[str, str]) -> dict[str, str]:
    """Return a value for each parameter of the view, from ``given`` or its default.

    Raises:
        ViewError: a parameter is missing, not the view's, or holds more than letters, digits, ``_``, ``.`` and ``-``.
    """
    unknown = sorted(set(given) - set(view.parameters))
    if unknown:
        raise ViewError(f"view {view.name} has no parameter {unknown[0]}{_nearest(unknown[0], list(view.parameters))}")
    bound: dict[str, str] = {}
    for name, spec in view.parameters.items():
        value = given.get(name, spec.default)
        if value is None:
            about = f" ({spec.about})" if spec.about else ""
            raise ViewError(f"view {view.name} needs a value for the parameter {name}{about}")
        if _VALUE.fullmatch(value) is None:
            raise ViewError(f"the parameter {name} may hold letters, digits, '_', '.' and '-', at most 100 of them")
        bound[name] = value
    return bound


def fill_parameters(text: str, bound: Mapping[str, str]) -> str:
    """Return ``text`` with each ``$name`` replaced; for file patterns and plain values, never for SQL."""
    return _PARAMETER.sub(lambda match: bound[match[1]], text)


def parameters_in(text: str) -> frozenset[str]:
    """Return the names of the ``$parameters`` in a text."""
    return frozenset(_PARAMETER.findall(text))


def _used_parameters(view: FeatureView) -> set[str]:
    texts = [view.source.query or "", view.split.test, view.split.salt]
    for table in view.source.tables.values():
        texts += [table.files, *table.keep.values()]
    if view.source.statements is not None:
        texts.append(view.source.statements.files or "")
    return {name for text in texts for name in parameters_in(text)} | set(
        view.providers.parameters if view.providers else ()
    )


def _vocabulary(spec: ResponseSpec) -> list[str] | int:
    return spec.vocabulary if isinstance(spec.vocabulary, int) else list(spec.vocabulary)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "view"
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key{_nearest(str(problem['loc'][-1]), _known_keys(problem['loc'][:-1]))}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}"


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[_Section]] = {
        "source": SourceSpec,
        "tables": TableSpec,
        "statements": StatementSpec,
        "features": FeatureSpec,
        "label": LabelSpec,
        "responses": ResponseSpec,
        "split": SplitSpec,
        "parameters": ParameterSpec,
        "providers": ProvidersSpec,
        "demo": DemoSpec,
    }
    named = [sections[str(part)] for part in place if str(part) in sections]
    return list((named[-1] if named else FeatureView).model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else (f" (known: {', '.join(known)})" if known else "")
