"""`orchard predict`: score the rows of a source with a model that a job has trained."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def add_predict_command(app: typer.Typer) -> None:
    """Add this module's command to ``app``."""
    app.command("predict")(predict)


def predict(
    model: Annotated[Path, typer.Option(help="The folder of a finished job's output, or a file in it.")],
    view: Annotated[str, typer.Option(help="The view file, or the name of a bundled view.")],
    data: Annotated[
        Path | None, typer.Option(help="The folder that the view's files are in; default: the view's.")
    ] = None,
    parameters: Annotated[list[str] | None, typer.Option("--set", help="A parameter of the view: name=value.")] = None,
    connection: Annotated[str | None, typer.Option(help="The database, for a view of kind sql.")] = None,
    out: Annotated[str, typer.Option(help="The CSV file to write; - is the terminal.")] = "-",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of CSV.")] = False,
) -> None:
    """Score your own rows with a trained model; consent is not asked, because the rows do not leave you."""
    import tempfile

    from connector.reporting.model_file import read_model
    from connector.reporting.scoring import check_view, prediction_sandbox, score_rows, write_scores
    from connector.sources.opened import open_source
    from connector.sources.providers import bundled_views, load_view
    from connector.sources.source import Location

    if out != "-" and not Path(out).absolute().parent.is_dir():
        raise typer.BadParameter(f"--out: the folder of {out} does not exist")
    trained = read_model(model)
    named = {path.stem: path for path in bundled_views()}
    path = Path(view) if Path(view).exists() else named.get(view, Path(view))
    wanted = load_view(path)
    check_view(trained, wanted)
    location = Location(folder=data or path.parent, parameters=_pairs(parameters or []), connection=connection)
    with tempfile.TemporaryDirectory(prefix="orchard-") as folder:
        sandbox = prediction_sandbox(Path(folder))
        try:
            scores = score_rows(trained, open_source(wanted, location), sandbox)
        finally:
            sandbox.stop()
    if as_json:
        document = {"model": trained.title, "scores": [dataclasses.asdict(score) for score in scores]}
        text = json.dumps(document, ensure_ascii=False) + "\n"
        if out == "-":
            sys.stdout.write(text)
        else:
            Path(out).write_text(text, encoding="utf-8")
    elif out == "-":
        write_scores(scores, wanted.shape, sys.stdout)
    else:
        with Path(out).open("w", encoding="utf-8", newline="") as file:
            write_scores(scores, wanted.shape, file)
    if out != "-":
        typer.echo(f"{len(scores)} scores written to {out}", err=True)


def _pairs(parameters: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in parameters]
    if any(not sign for _, sign, _ in pairs):
        raise typer.BadParameter("--set takes name=value")
    return {name: value for name, _, value in pairs}
