"""`orchard policy`: ask a policy what it says before anybody is bound by it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Ask usage policies what they allow.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.callback()
def policy() -> None:
    """Ask usage policies what they allow."""


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
