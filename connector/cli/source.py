"""`orchard source`: look at a source through its view before anything is offered."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Look at a data source through its feature view.", no_args_is_help=True)


@app.callback()
def source() -> None:
    """Look at a data source through its feature view."""


@app.command("test")
def try_out(
    view: Annotated[Path, typer.Argument(help="The view file, or the name of a bundled view.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder that the view's files are in; default: the view's.")
    ] = None,
    parameters: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the view: name=value.")] = None,
    connection: Annotated[str | None, typer.Option(help="The database, for a view of kind sql.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read the source and say what is there: rows, subjects, columns, first problem. Nothing is stored."""
    # Imported here: pyarrow and duckdb would slow down every other command.
    from connector.sources.dry_run import dry_run
    from connector.sources.opened import open_source
    from connector.sources.providers import bundled_views, load_view
    from connector.sources.source import Location, SourceError
    from learning.views import ViewError

    named = {path.stem: path for path in bundled_views()}
    path = view if view.exists() else named.get(str(view), view)
    try:
        location = Location(folder=data or path.parent, parameters=_pairs(parameters or []), connection=connection)
        found = dry_run(open_source(load_view(path), location))
    except (SourceError, ViewError) as error:
        _refuse(str(error), error.code, as_json=as_json)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({"ok": found.well, **dataclasses.asdict(found)}, indent=2))
    else:
        _show(found)
    if not found.well:
        raise typer.Exit(1)


def _pairs(parameters: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in parameters]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter("--set takes name=value")
    return {name: value for name, _, value in pairs}


def _refuse(message: str, code: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"ok": False, "code": code, "problem": message}, indent=2))
    else:
        typer.echo(f"problem: {message}", err=True)


def _show(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"view {found.view}  {found.view_digest[:12]}  output {found.output_digest[:12]}")
    console.print(f"{found.rows} rows of {found.subjects} subjects ({found.rows_read} rows read)")
    table = Table("column", "type", "missing")
    for column in found.columns:
        table.add_row(column.name, column.type, f"{column.missing_share:.1%}")
    console.print(table)
    if found.well:
        parts = ", ".join(f"{name} {count}" for name, count in found.split.items())
        console.print(f"split: {parts}; share of ones: {found.positive_share:.3f}")
        console.print("the source can be used as it is; nothing was stored")
    else:
        console.print(f"problem: {found.problem}")
