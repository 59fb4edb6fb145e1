"""`orchard consent`: verify a receipt offline, take an institution's list in, export for a data protection officer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from connector.audit_export import AuditExporter

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
        typer.Argument(metavar="FILE", help="JSON list, or a JSON object a line: rows as POST /consent/import takes."),
    ],
    as_json: AsJson = False,
) -> None:
    """Import an institution's consents; each row is judged by itself, and the same list again changes nothing."""
    from policies.imports import import_rows

    rows = _rows(file)
    with _desk(folder) as desk:
        results = import_rows(desk.consents, rows)
    counts = {name: sum(item.outcome == name for item in results) for name in ("recorded", "unchanged", "refused")}
    refused = [item for item in results if item.outcome == "refused"]
    if as_json:
        listed = [{"row": item.index + 1, "code": item.code, "detail": item.detail} for item in refused]
        print(json.dumps({**counts, "problems": listed}, indent=2, ensure_ascii=False))
    else:
        print(", ".join(f"{count} {name}" for name, count in counts.items()))
        for item in refused[:20]:
            print(f"row {item.index + 1}: {item.detail}")
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


def _rows(file: Path) -> list[Any]:
    from policies.errors import ConsentFormatError

    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text) if text.lstrip().startswith("[") else [json.loads(one) for one in _lines(text)]
    except OSError as error:
        raise ConsentFormatError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ConsentFormatError(f"{file}: is neither a JSON list nor a JSON object a line") from error
    if not isinstance(found, list):
        raise ConsentFormatError(f"{file}: holds no list")
    return found


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
