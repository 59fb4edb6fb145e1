"""`orchard audit`: check what a participant has exported for an auditor, without asking that participant."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Check evidence offline.", no_args_is_help=True)


@app.callback()
def audit() -> None:
    """Check evidence offline."""


@app.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An audit export.")],
    key: Annotated[str | None, typer.Option(help="The issuer's public key: raw Ed25519, base64url.")] = None,
    did: Annotated[Path | None, typer.Option(help="The issuer's DID document, saved to a file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check an export's signature and every record's chain of events; exit status 2 when something does not hold."""
    from connector.cli.evidence import caution, issuer_key, read_document
    from policies.audit import verify_export

    document = read_document(file)
    public_key, known = issuer_key(document, key, did)
    found = verify_export(document, public_key)
    if as_json:
        print(json.dumps({"valid": True, "issuer_checked": known, **dataclasses.asdict(found)}, indent=2))
        return
    print(f"The export holds: {found.records} records with {found.events} signed events, {found.decisions} decisions.")
    print(f"Made by {found.issuer} at {found.made_at}.")
    if not known:
        print(caution())


@app.command("evidence")
def evidence(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Evidence that somebody cheated in a training job.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check evidence of cheating from the file alone; exit status 2 when it proves nothing."""
    from connector.cli.evidence import read_document
    from learning.secagg.evidence import check_evidence

    found = check_evidence(read_document(file))
    if as_json:
        print(json.dumps({"valid": True, **dataclasses.asdict(found)}, indent=2))
        return
    print(f"The evidence holds ({found.kind}): {found.text}.")
    print(f"Job {found.job}. The keys are those with which its members signed their approvals in the manifest.")
