"""An institution's list of answers for `orchard consent import`: CSV, a JSON list, or a JSON object a line."""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from connector.datasets.document import DatasetFile
    from policies.notices import Notice
    from policies.people import Expression

_DECISIONS = frozenset({"grant", "refuse", "withdraw", "renew"})
COLUMNS = frozenset(
    {"subject", "decision", "country", "birth_year", "attested_adult", "guardian", "verification", "evidence_ref"}
)
_TRUE = frozenset({"true", "yes", "1"})


class ConsentListError(Exception):
    """The list cannot be taken as it is; whoever wrote it can mend it. No value of it is repeated."""

    code = "consent-list"


def is_table(file: Path) -> bool:
    """Say whether a list is CSV; anything else is read as JSON."""
    return file.suffix.lower() == ".csv"


def json_rows(file: Path) -> list[Any]:
    """Return the rows of a JSON list, or of a file with a JSON object a line.

    Raises:
        ConsentListError: it is neither.
    """
    try:
        text = file.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        found = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise ConsentListError(f"{file}: cannot be read ({type(error).__name__})") from error
    except (ValueError, RecursionError) as error:
        raise ConsentListError(f"{file}: is neither a JSON list nor a JSON object a line") from error
    if not isinstance(found, list):
        raise ConsentListError(f"{file}: holds no list")
    return found


def table_answers(
    rows: Sequence[dict[str, str]], notices: "Sequence[Notice]", dataset_id: str, purpose: str | None, now: str
) -> list[dict[str, Any]]:
    """Return the rows of a table as answers to the notice of a dataset, in the form of ``POST /consent/import``.

    Args:
        rows: from :func:`read_table`.
        notices: the notices in force.
        dataset_id: what the answers are about.
        purpose: which of the notice's purposes; the first without.
        now: the moment of the import, ISO 8601; when each answer was given is not in the list.

    Raises:
        ConsentListError: nobody is asked about the dataset.
    """
    found = [notice for notice in notices if notice.dataset_id == dataset_id]
    if not found:
        name = dataset_id.rpartition("/")[2]
        raise ConsentListError(f"nobody is asked about {dataset_id} yet; first: orchard dataset publish DIR {name}")
    return [_answer(row, found[0], purpose, now) for row in rows]


def read_table(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header: ``subject``, ``decision`` and any others of :data:`COLUMNS`.

    Raises:
        ConsentListError: it is no such table; the message names the line.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            names = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConsentListError(f"{file}: cannot be read as CSV ({type(error).__name__})") from error
    missing = {"subject", "decision"} - names
    if missing or names - COLUMNS:
        wrong = f"lacks {min(missing)}" if missing else f"has the unknown column {min(names - COLUMNS)}"
        raise ConsentListError(f"{file}: {wrong}; its columns may be: {', '.join(sorted(COLUMNS))}")
    for number, row in enumerate(rows, start=2):
        if row["decision"] not in _DECISIONS or not row["subject"]:
            raise ConsentListError(
                f"{file}, line {number}: needs a subject and a decision ({', '.join(sorted(_DECISIONS))})"
            )
        if row.get("birth_year") and not row["birth_year"].isdigit():
            raise ConsentListError(f"{file}, line {number}: the birth_year is not a number")
    return rows


def known_only(file: "DatasetFile") -> "Callable[[object], Expression]":
    """Return a reader of rows that refuses a yes for somebody of whom the source holds nothing.

    Raises:
        SourceError: the source cannot be read.
        DatasetError: its view cannot be used.
    """
    from connector.datasets.opening import open_dataset
    from connector.sources.providers import list_subjects
    from policies.codec import parse_import_row
    from policies.consent import ConsentAction
    from policies.errors import UnknownSubjectError

    there = {str(subject) for subject in list_subjects(open_dataset(file))}

    def parse(row: object) -> "Expression":
        said = parse_import_row(row)
        if said.action in (ConsentAction.GRANT, ConsentAction.RENEW) and said.subject not in there:
            raise UnknownSubjectError(
                "the source holds nothing of this learner; check the id, or pass --any-subject if it is still to come"
            )
        return said

    return parse


def _answer(row: dict[str, str], notice: "Notice", purpose: str | None, now: str) -> dict[str, Any]:
    """Return a row in the form of ``/consent/import``; its event id follows from what is said."""
    given = {name: value for name, value in row.items() if value}
    parts = [notice.notice_id, str(notice.version), *(f"{name}={given[name]}" for name in sorted(given))]
    found: dict[str, Any] = {
        "event_id": "list-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40],
        "notice_id": notice.notice_id,
        "notice_version": notice.version,
        "language": notice.default_language,
        "purpose": purpose or notice.purposes[0].purpose,
        "expressed_at": now,
        **given,
    }
    if "birth_year" in found:
        found["birth_year"] = int(found["birth_year"])
    if "attested_adult" in found:
        found["attested_adult"] = found["attested_adult"].lower() in _TRUE
    return found
