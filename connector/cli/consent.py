"""`orchard consent`: verify a receipt offline, take an institution's list in, export for a data protection officer."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from connector.audit_export import AuditExporter
    from policies.people import Expression, ImportResult

app = typer.Typer(help="Consents: verify receipts, import, export.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Key = Annotated[str | None, typer.Option(help="The provider's public key: raw Ed25519, base64url.")]
Did = Annotated[Path | None, typer.Option(help="The provider's DID document, saved to a file.")]


@app.callback()
def consent() -> None:
    """Consents: verify receipts, import, export."""


@app.command("verify")
def verify(
    receipt: Annotated[Path, typer.Argument(metavar="FILE", help="The receipt, as it was handed out.")],
    key: Key = None,
    did: Did = None,
    as_json: AsJson = False,
) -> None:
    """Check a receipt and the whole chain in it, without any network; exit status 2 when it does not hold."""
    from connector.cli.evidence import caution, issuer_key, read_document
    from policies.receipts import verify_receipt

    document = read_document(receipt)
    public_key, known = issuer_key(document, key, did)
    payload = verify_receipt(document, public_key)
    record = payload["record"]
    events = record["hasConsentEvent"]
    if as_json:
        found = {
            "valid": True,
            "issuer": payload["issuer"],
            "issuer_checked": known,
            "state": payload["state"],
            "record_id": record["@id"],
            "events": len(events),
            "how_to_withdraw": payload["how_to_withdraw"],
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(
        f"The receipt holds: {payload['state']}, since {payload['issued_at']}, for {record['hasProcess']['hasPurpose']}."
    )
    print(f"Issued by {payload['issuer']}; {len(events)} signed event(s) from the first answer on.")
    if payload["how_to_withdraw"]:
        print(f"To withdraw: {payload['how_to_withdraw']}")
    if not known:
        print(caution())


@app.command("import")
def bulk_import(
    folder: Folder,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV (subject, decision, and what is known of country, birth_year, attested_adult, guardian,"
            " verification, evidence_ref), or JSON rows as POST /consent/import takes.",
        ),
    ],
    dataset: Annotated[str | None, typer.Option(help="For CSV: the published dataset's name.")] = None,
    purpose: Annotated[
        str | None, typer.Option(help="For CSV: which of the notice's purposes; the first without.")
    ] = None,
    any_subject: Annotated[
        bool, typer.Option("--any-subject", help="For CSV: also take learners whom the source does not know yet.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import an institution's consents; each row is judged by itself, and the same list again changes nothing."""
    from connector.cli.consent_list import ConsentListError, is_table, json_rows, known_only, read_table, table_answers
    from connector.datasets.folder import DatasetFolder
    from connector.settings import Settings
    from policies.codec import parse_import_row
    from policies.imports import import_rows

    table = is_table(file)
    if table and dataset is None:
        raise ConsentListError(f"{file}: a table does not say what it is about; name it with --dataset")
    if not table and (dataset or purpose):
        raise ConsentListError(f"{file}: its rows name their notice and purpose; leave --dataset and --purpose out")
    lines = read_table(file) if table else []
    rows = [] if table else json_rows(file)
    parse: Callable[[object], Expression] = parse_import_row
    with _desk(folder) as desk:
        if table:
            datasets = DatasetFolder(Settings.load(folder))
            about = datasets.id_of(str(dataset))
            rows = table_answers(lines, desk.consents.notices(), about, purpose, desk.now().isoformat())
            parse = parse if any_subject else known_only(datasets.named(str(dataset)))
        results = import_rows(desk.consents, rows, parse)
    _tell(results, first=2 if table else 1, as_json=as_json)


def _tell(results: "Sequence[ImportResult]", *, first: int, as_json: bool) -> None:
    counts = {name: sum(item.outcome == name for item in results) for name in ("recorded", "unchanged", "refused")}
    refused = [item for item in results if item.outcome == "refused"]
    if as_json:
        listed = [{"line": item.index + first, "code": item.code, "detail": item.detail} for item in refused]
        print(json.dumps({**counts, "problems": listed}, indent=2, ensure_ascii=False))
    else:
        print(f"{counts['recorded']} answers recorded, {counts['unchanged']} known already, {len(refused)} refused.")
        for item in refused[:20]:
            print(f"  line {item.index + first}: {item.detail}")
    if refused:
        raise typer.Exit(1)


@app.command("export")
def export(
    folder: Folder,
    start: Annotated[datetime | None, typer.Option("--from", help="From this moment on (UTC).")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="Up to this moment (UTC), not included.")] = None,
    subject: Annotated[str | None, typer.Option(help="One learner, by their id at the source.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write it; printed without.")] = None,
) -> None:
    """Export records, events and decisions of a period or a subject as one signed JSON (`orchard audit verify`)."""
    from policies.audit import Period

    period = Period(start=_utc(start), end=_utc(end))
    with _desk(folder) as desk:
        document = desk.export(period, subject)
    text = json.dumps(document, ensure_ascii=False)
    if output is None:
        print(text)
        return
    output.write_text(text + "\n", encoding="utf-8")
    payload = document["payload"]
    print(f"{output}: {len(payload['records'])} records, {len(payload['decisions'])} decisions")


@contextmanager
def _desk(folder: Path) -> "Iterator[AuditExporter]":
    import uuid

    from connector.audit_export import AuditExporter
    from connector.foundation import lay_foundation
    from connector.identity.files import read_secret
    from connector.settings import Settings
    from connector.storage.consents import SqlConsentStore
    from connector.storage.decisions import SqlDecisionLog
    from connector.storage.duties import SqlDuties
    from policies.service import ConsentService

    settings = Settings.load(folder)
    foundation = lay_foundation(settings)
    consents = ConsentService(
        store=SqlConsentStore(foundation.database),
        signer=foundation.signer,
        secret=bytes.fromhex(read_secret(settings.consent.pseudonym_key)),
        now=foundation.now,
        new_id=lambda: f"urn:uuid:{uuid.uuid4()}",
    )
    log, duties = SqlDecisionLog(foundation.database), SqlDuties(foundation.database)
    try:
        yield AuditExporter(consents=consents, decisions=log, duties=duties, now=foundation.now)
    finally:
        foundation.close()


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
