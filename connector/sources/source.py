"""What a source is to the rest of the connector: a place, a bound view, and one way to read allowed rows."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from learning.views import FeatureView

SubjectRef: TypeAlias = Callable[[str], str]
"""Turns a source's own subject id into the pseudonym that consent records use."""
Fetch: TypeAlias = Callable[[str, Mapping[str, str]], Mapping[str, Any]]
"""GETs a URL with headers and returns the parsed JSON object; the connector's one HTTP client supplies it."""


class SourceError(Exception):
    """A source cannot be read as its view says; the message is one sentence with whose fault it is and what to do.

    ``code`` is one of ``source-missing``, ``source-malformed``, ``view-mismatch``, ``source-unreachable``,
    ``source-empty``. No message repeats a value of a row.
    """

    def __init__(self, code: str, message: str, *, whose: Literal["ours", "world"] = "ours") -> None:
        """Make the error; ``whose`` is ``world`` when a system that the provider only reaches has failed."""
        super().__init__(message)
        self.code = code
        self.whose = whose


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """Where a provider keeps what a view describes. It comes from the dataset's configuration, never from a peer."""

    folder: Path | None = None
    """The folder that file patterns are below; nothing above it is read."""
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    connection: str | None = dataclasses.field(default=None, repr=False)
    """sqlite:///FILE, duckdb:///FILE or postgresql://... for kind ``sql``; the base URL of the record store for xapi."""
    credential: tuple[str, str] | None = dataclasses.field(default=None, repr=False)
    """User and password for HTTP basic authentication at a record store."""
    fetch: Fetch | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """The rows of allowed subjects, and how much was read to get them."""

    data: Any
    """A pyarrow.Table with the view's columns; the subject column is text."""
    rows_read: int
    """Rows (or statements) of allowed subjects that left the source."""
    subjects_read: int
    population: frozenset[str] = dataclasses.field(repr=False)
    """The source's own ids of all its subjects, so that a withdrawal moves nobody else to another fold."""


class Source(Protocol):
    """A bound view over a provider's own system."""

    view: FeatureView

    def read(self, allowed_subjects: frozenset[str] | None, subject_ref: SubjectRef) -> Table:
        """Return the rows whose subject is allowed.

        Args:
            allowed_subjects: pseudonyms with a valid consent; None reads all (only for a dry run by the owner).
            subject_ref: makes the pseudonym of a source's subject id.

        Raises:
            SourceError: the source is gone, malformed, or does not fit the view.
        """
        ...

    def fingerprint(self) -> str | None:
        """Return a digest that changes when the source's files change; None when that cannot be known."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnapshotFacts:
    """What a snapshot holds, for the record; no row and no subject id.

    ``learners`` are the learners' pseudonyms in the order that the snapshot numbers them; they stay with the provider.
    """

    rows: int
    """Rows of outcomes, or answers of responses."""
    subjects: int
    train_rows: int
    digest: str
    """SHA-256 (hex) of the snapshot file."""
    learners: tuple[str, ...]
    rows_read: int
