"""The dataset file: what a provider writes to offer a source, TOML, one file for each dataset.

    title = "Maths answers"
    view = "../views/maths.toml"          # or the name of a bundled view

    [location]
    folder = "../export"
    parameters = { school = "17" }

    [policy]
    purpose = "https://w3id.org/orchard/KnowledgeTracing"
    valid_from = 2026-08-01T00:00:00Z
    valid_until = 2027-07-31T00:00:00Z

    [notice]
    controller = { name = "School One" }
    recipients = ["did:web:ai.example"]
    algorithm_class = "https://w3id.org/orchard/KnowledgeTracingModel"
    [notice.texts.en]
    title = "How we use your answers"
    short = "A model learns from your answers, here, and they stay here."

Paths are relative to the file. Values never appear in an error: a connection may hold a password.
"""

import dataclasses
import difflib
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from connector.datasets.errors import DatasetError, DatasetUnknownError
from policies.counts import DEFAULT_FLOOR

Iri: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.\-]*:\S+$", min_length=3, max_length=500)]
Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=500)]
Language: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LocationSpec(_Section):
    """Where the data lies; see ``connector.sources.source.Location``."""

    folder: Path | None = None
    parameters: dict[str, str] = {}
    connection: Annotated[str | None, Field(repr=False)] = None
    connection_file: Path | None = None
    """A file (mode 0600) whose text is the connection, when it holds a password."""
    credential: Path | None = None
    """A file (mode 0600) with ``user:password`` for a record store."""

    @model_validator(mode="after")
    def _one_connection(self) -> "LocationSpec":
        if self.connection is not None and self.connection_file is not None:
            raise ValueError("give either connection or connection_file")
        return self


class PolicySpec(_Section):
    """The terms, written out or as an ODRL file (DSP profile)."""

    purpose: Iri | None = None
    valid_from: AwareDatetime | None = None
    valid_until: AwareDatetime | None = None
    consent: Literal[True] = True
    """Only rows of learners who consent are ever read; there is no other legal basis here."""
    cohort_floor: Annotated[int, Field(ge=DEFAULT_FLOOR, le=1_000_000)] = DEFAULT_FLOOR
    file: Path | None = None

    @model_validator(mode="after")
    def _complete(self) -> "PolicySpec":
        if self.file is not None and self.model_fields_set - {"file"}:
            raise ValueError("a policy file says everything: leave the other keys out")
        if self.file is None and (self.purpose is None or self.valid_from is None or self.valid_until is None):
            raise ValueError("give purpose (an IRI), valid_from and valid_until, or a file with an ODRL policy")
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise ValueError("valid_until is not after valid_from")
        return self


class ControllerSpec(_Section):
    """Who is responsible for the data; the participant itself when left out."""

    id: Text | None = None
    name: Text | None = None
    contact: str = ""
    address: str = ""


class NoticeTextSpec(_Section):
    """The notice in one language; ``purpose`` says in a phrase what the purpose is, ``withdrawal`` how to withdraw."""

    title: Text
    short: Annotated[str, Field(min_length=1, max_length=4000)]
    full: Annotated[str, Field(max_length=100_000)] = ""
    purpose: Annotated[str, Field(max_length=1000)] = ""
    withdrawal: Annotated[str, Field(max_length=500)] = ""


class NoticeSpec(_Section):
    """What learners are told; see ``policies.notices.Notice``."""

    recipients: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]
    algorithm_class: Iri
    texts: Annotated[dict[Language, NoticeTextSpec], Field(min_length=1, max_length=50)]
    retention: Annotated[str, Field(pattern=r"^P[0-9YMWD]+$", max_length=40)] = "P1Y"
    data_categories: Annotated[tuple[Iri, ...], Field(min_length=1)] = (
        "https://w3id.org/dpv/pd#EducationalExperience",
    )
    special_category: bool = False
    controller: ControllerSpec = ControllerSpec()
    dpo: Annotated[str, Field(max_length=500)] = ""
    authority: Annotated[str, Field(max_length=500)] = ""
    withdrawal: Annotated[str, Field(max_length=500)] = ""
    storage_places: tuple[Text, ...] = ()
    jurisdiction: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "DE"
    """The country whose age of consent applies (GDPR article 8)."""
    default_language: Language | None = None
    valid_until: AwareDatetime | None = None
    consent_days: Annotated[int, Field(ge=1, le=3650)] = 365

    @model_validator(mode="after")
    def _complete(self) -> "NoticeSpec":
        if self.default_language is not None and self.default_language not in self.texts:
            raise ValueError("the default language has no text")
        return self


class DatasetDocument(_Section):
    """A whole dataset file."""

    id: Iri | None = None
    title: Text
    description: Annotated[str, Field(max_length=10_000)] = ""
    keywords: tuple[Text, ...] = ()
    view: Text
    columns: dict[str, Text] = {}
    """What a column of the view means, for readers of the catalog; never a value."""
    location: LocationSpec = LocationSpec()
    policy: PolicySpec
    notice: NoticeSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetFile:
    """A dataset as its file describes it; ``name`` is the file's, ``id`` the one in the catalog."""

    name: str
    id: str
    path: Path
    document: DatasetDocument

    @property
    def purpose(self) -> str | None:
        """The purpose that the terms name; None with a policy file."""
        return self.document.policy.purpose

    def beside(self, path: Path) -> Path:
        """Return a path of the file, taken from where the file lies."""
        return Path(self.path.parent, path)


def load_dataset(path: Path, public_url: str) -> DatasetFile:
    """Return the dataset in a TOML file; its id defaults to ``{public_url}/datasets/NAME``.

    Raises:
        DatasetUnknownError: there is no such file.
        DatasetError: it is not TOML, or not a dataset; the first problem, and where.
    """
    try:
        document = DatasetDocument.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DatasetUnknownError(f"there is no dataset file {path}") from None
    except OSError as error:
        raise DatasetError(f"{path.name}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path.name} is not TOML: {error}") from None
    except ValidationError as error:
        raise DatasetError(f"{path.name}: {_first_problem(error)}") from None
    return DatasetFile(
        name=path.stem,
        id=document.id or f"{public_url.rstrip('/')}/datasets/{path.stem}",
        path=path.absolute(),
        document=document,
    )


def utc_text(moment: datetime) -> str:
    """Return an instant as ISO 8601 text in UTC, ending in Z."""
    return moment.isoformat().replace("+00:00", "Z")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    place = tuple(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section = f"[{'.'.join(place[:-1])}] " if place[:-1] else ""
        return f"{section}unknown key '{place[-1]}'{_nearest(place[-1], _keys(place[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {'.'.join(place)} is missing"
    if place[-1:] == ("consent",):
        return "[policy] consent: must be true; nobody's rows are read without their consent"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message[:1].lower()}{message[1:]}" if place else message


def _keys(place: tuple[str, ...]) -> list[str]:
    sections: dict[tuple[str, ...], type[_Section]] = {
        (): DatasetDocument,
        ("location",): LocationSpec,
        ("policy",): PolicySpec,
        ("notice",): NoticeSpec,
        ("notice", "controller"): ControllerSpec,
    }
    model: Any = NoticeTextSpec if place[:2] == ("notice", "texts") else sections.get(place)
    return [] if model is None else list(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else (f"; known: {', '.join(known)}" if known else "")
