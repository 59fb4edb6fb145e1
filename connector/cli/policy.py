"""`orchard policy`: ask a policy what it says before anybody is bound by it, and follow the duties it brings."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from connector.storage.duties import SqlDuties
    from policies.duties import Duty

app = typer.Typer(help="Ask usage policies what they allow; follow their duties.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


_MOST = 100_000


@app.callback()
def policy() -> None:
    """Ask usage policies what they allow; follow their duties."""


@app.command("explain")
def explain(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy as JSON: an offer or an agreement.")],
    request: Annotated[
        Path, typer.Option("--request", help='What is asked, as JSON: {"scope", "action", "at", "facts": {...}}.')
    ],
    scope: Annotated[
        str | None, typer.Option(help="catalog, negotiation, transfer, round or release; overrides the request's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a policy decides about a request, and why; exit status 1 when it denies."""
    from policies.explain import explain as explained
    from policies.explain import explanation_document, read_request

    asked = read_request(_read(request), now=datetime.now(UTC), scope=scope)
    found = explained(_policy(_read(file), file), asked)
    if as_json:
        print(json.dumps(explanation_document(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(found.sentences))
        if found.missing:
            print(f"The request does not say: {', '.join(found.missing)}.")
    if not found.decision.allowed:
        raise typer.Exit(1)


@app.command("operands")
def operands(as_json: AsJson = False) -> None:
    """List the operands that this connector understands, the fact each reads, and where it binds."""
    from policies.explain import operand_rows

    rows = operand_rows()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(f"{row['operand']}\t{row['fact']}\t{', '.join(row['binds'])}")


@app.command("templates")
def templates() -> None:
    """List the policy templates that come with this version."""
    from policies.templates import template_names

    print("\n".join(template_names()))


class DutyCommandError(Exception):
    """No duty, or no single one, is called this; whoever typed it can mend it."""

    code = "duty-command"


@app.command("duties")
def duties(folder: Folder, as_json: AsJson = False) -> None:
    """List the duties of this participant's agreements, overdue ones first; exit status 1 when one is overdue."""
    from connector.audit_export import duty_row
    from policies.duties import DutyState

    now = datetime.now(UTC)
    with _duties(folder) as desk:
        found = desk.all(limit=_MOST)
    if as_json:
        print(json.dumps([duty_row(duty, now) for duty in found], indent=2, ensure_ascii=False))
    else:
        for duty in found:
            state = duty.state_at(now).value
            print(f"{duty.duty_id[:12]}\t{state}\t{duty}\t{duty.holder}\t{duty.agreement_id}")
        if not found:
            print("No agreement brings a duty.")
    if any(duty.state_at(now) is DutyState.OVERDUE for duty in found):
        raise typer.Exit(1)


@app.command("fulfil")
def fulfil(
    folder: Folder,
    duty: Annotated[str, typer.Argument(metavar="DUTY", help="The duty's id, or how it begins.")],
    proof: Annotated[str, typer.Option(help="What shows it: a reference, a digest. No personal data.")],
    amount: Annotated[float | None, typer.Option(help="What was paid, for a compensation.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Write that a duty is fulfilled, with its proof; what it suspended goes on. Nothing is taken back."""
    from connector.audit_export import duty_row

    now = datetime.now(UTC)
    with _duties(folder) as desk:
        named = _named(desk.all(limit=_MOST), duty)
        evidence: dict[str, Any] = {"proof": proof} | ({} if amount is None else {"amount": amount})
        done = desk.fulfil(named.duty_id, evidence, now)
    if as_json:
        print(json.dumps(duty_row(done, now), indent=2, ensure_ascii=False))
        return
    print(f"{done.duty_id[:12]} is fulfilled since {done.fulfilled_at:%Y-%m-%d %H:%M} UTC: {done}")


@contextmanager
def _duties(folder: Path) -> "Iterator[SqlDuties]":
    from connector.settings import Settings
    from connector.storage.database import Database
    from connector.storage.duties import SqlDuties
    from connector.storage.migrate import require_current

    database = Database(Settings.load(folder).storage.database_url, pool_size=1)
    try:
        require_current(database)
        yield SqlDuties(database)
    finally:
        database.close()


def _named(found: "list[Duty]", name: str) -> "Duty":
    fitting = [duty for duty in found if duty.duty_id.startswith(name)]
    if len(fitting) != 1:
        raise DutyCommandError(f"{len(fitting)} duties are called '{name}'; orchard policy duties shows them")
    return fitting[0]


def _read(path: Path) -> Any:
    from policies.errors import PolicyFormatError

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyFormatError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise PolicyFormatError(f"{path}: is not JSON") from error


def _policy(document: Any, path: Path) -> dict[str, Any]:
    from policies.errors import PolicyFormatError

    # A dataset of a catalog holds its offer; whoever saved one should not have to cut it out.
    if isinstance(document, dict) and isinstance(document.get("hasPolicy"), list) and document["hasPolicy"]:
        document = document["hasPolicy"][0]
    if not isinstance(document, dict):
        raise PolicyFormatError(f"{path}: holds no policy")
    return document
