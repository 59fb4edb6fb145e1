"""`orchard learners`: hand in what learners answered on paper or in the LMS, as the institution's list."""

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli.own import AsJson, show_json

if TYPE_CHECKING:
    from policies.notices import Notice
    from policies.people import ImportResult

app = typer.Typer(no_args_is_help=True, help="Learners' answers collected elsewhere.")

_DECISIONS = frozenset({"grant", "refuse", "withdraw", "renew"})
_COLUMNS = frozenset(
    {"subject", "decision", "country", "birth_year", "attested_adult", "guardian", "verification", "evidence_ref"}
)


class LearnersError(Exception):
    """The list cannot be taken as it is; whoever wrote it can mend it. No value of it is repeated."""

    code = "learners-list"


@app.callback()
def learners() -> None:
    """Learners' answers collected elsewhere."""


@app.command("import")
def bulk_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV: subject, decision (grant or refuse), country, and what is known of"
            " birth_year, attested_adult, guardian, verification, evidence_ref.",
        ),
    ],
    dataset: Annotated[str, typer.Option(help="The published dataset's name.")],
    purpose: Annotated[str | None, typer.Option(help="Which of the notice's purposes; the first without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import answers to a dataset's current privacy notice; the same list again changes nothing."""
    from datetime import UTC, datetime

    from connector.datasets.desk import open_publisher
    from connector.settings import Settings
    from policies.codec import parse_import_row

    rows = _read(file)
    now = datetime.now(UTC)
    with open_publisher(Settings.load(folder), now=lambda: datetime.now(UTC)) as desk:
        notice = _notice(desk.consents.notices(), desk.folder.id_of(dataset), dataset)
        said = [parse_import_row(_expression(row, notice, purpose, now.isoformat())) for row in rows]
        results = desk.consents.import_expressions(said)
    _tell(results, as_json=as_json)


def _notice(notices: "list[Notice]", dataset_id: str, name: str) -> "Notice":
    found = [notice for notice in notices if notice.dataset_id == dataset_id]
    if not found:
        raise LearnersError(f"nobody is asked about {dataset_id} yet; first: orchard dataset publish DIR {name}")
    return found[0]


def _read(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            names = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise LearnersError(f"{file}: cannot be read as CSV ({type(error).__name__})") from error
    missing = {"subject", "decision"} - names
    if missing or names - _COLUMNS:
        wrong = f"lacks {min(missing)}" if missing else f"has the unknown column {min(names - _COLUMNS)}"
        raise LearnersError(f"{file}: {wrong}; its columns may be: {', '.join(sorted(_COLUMNS))}")
    for number, row in enumerate(rows, start=2):
        if row["decision"] not in _DECISIONS or not row["subject"]:
            raise LearnersError(
                f"{file}, line {number}: needs a subject and a decision ({', '.join(sorted(_DECISIONS))})"
            )
        if row.get("birth_year") and not row["birth_year"].isdigit():
            raise LearnersError(f"{file}, line {number}: the birth_year is not a number")
    return rows


def _expression(row: dict[str, str], notice: "Notice", purpose: str | None, now: str) -> dict[str, Any]:
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
        found["attested_adult"] = found["attested_adult"].lower() in ("true", "yes", "1")
    return found


def _tell(results: "list[ImportResult]", *, as_json: bool) -> None:
    counts = {name: sum(one.outcome == name for one in results) for name in ("recorded", "unchanged", "refused")}
    refused = [one for one in results if one.outcome == "refused"]
    if as_json:
        show_json(counts | {"problems": [{"line": one.index + 2, "code": one.code} for one in refused]})
    else:
        print(f"{counts['recorded']} answers recorded, {counts['unchanged']} known already, {len(refused)} refused.")
        for one in refused[:10]:
            print(f"  line {one.index + 2}: {one.detail}")
    if refused:
        raise typer.Exit(1)
