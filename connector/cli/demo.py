"""``orchard demo``: a data space on this machine, from nothing to a trained model."""

import shutil
import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from connector.demo.play import Shown


def demo(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of real data with a feature view; made-up schools without."),
    ] = None,
    providers: Annotated[
        int | None, typer.Option(metavar="N", help="How many data providers, the largest first.", min=2)
    ] = None,
    rounds: Annotated[int | None, typer.Option(metavar="N", help="Rounds of training.", min=1)] = None,
    strategy: Annotated[
        str | None, typer.Option(metavar="NAME", help="fedavg, fedadam, fedyogi or fedadagrad.")
    ] = None,
    aggregation: Annotated[
        str,
        typer.Option("--aggregation", "--topology", metavar="NAME", help="star or tree (both secure), or clear."),
    ] = "star",
    granularity: Annotated[
        str, typer.Option(metavar="NAME", help="Who contributes: each provider, or each learner.")
    ] = "provider",
    learners: Annotated[
        int | None, typer.Option(metavar="N", help="How many made-up learners in all, over the schools.", min=20)
    ] = None,
    seats: Annotated[int, typer.Option(metavar="M", help="Seats that sum (m).")] = 3,
    threshold: Annotated[int, typer.Option(metavar="T", help="Seats that may collude and learn nothing (t).")] = 1,
    challenges: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.0, max=1.0, help="Share of rounds whose seats answer for each other's shares."
        ),
    ] = 0.0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the result goes.")] = Path("demo-out"),
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where participants live; a temporary folder without.")
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the made-up data, the initial weights and every step.")
    ] = 7,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the view, as name=value.")
    ] = [],  # noqa: B006 - typer copies it
    refuse: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of learners who refuse.", min=0.0, max=1.0)
    ] = 0.1,
    min_contributors: Annotated[int | None, typer.Option(metavar="K", help="k of k-of-n in each round.", min=2)] = None,
    recruit_seconds: Annotated[
        float, typer.Option(metavar="S", help="How long the job waits for providers, and so for consent.", min=1)
    ] = 3600.0,
    finetune: Annotated[bool, typer.Option("--finetune", help="Also measure a short local fine-tune.")] = False,
    central: Annotated[
        bool, typer.Option("--central", help="Also pool the given folder for a central reference.")
    ] = False,
    base_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="First of the ports to listen on; any free ones without.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help="SQLAlchemy URL with {participant} in it; SQLite without.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Move a foreign output folder aside.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Watch schools and an AI provider negotiate, ask for consent and train together, all on this machine."""
    from rich.console import Console

    from connector.demo import play
    from connector.demo.stage import open_sign_in
    from connector.observability import configure_logging
    from connector.reporting.live import ConsoleNarrator
    from learning.plans import Aggregation

    if strategy not in (None, "fedavg", "fedadam", "fedyogi", "fedadagrad"):
        raise typer.BadParameter("the strategy is fedavg, fedadam, fedyogi or fedadagrad")
    if aggregation not in ("star", "tree", "clear"):
        raise typer.BadParameter("the topology is star, tree or clear")
    if granularity not in ("provider", "learner"):
        raise typer.BadParameter("the granularity is provider or learner")
    configure_logging("console")
    # Also where a shell started us in the background, which means: with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _as_interrupt)
    console = Console(stderr=as_json)
    narrator = ConsoleNarrator(console)
    root = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="orchard-demo-"))
    options = play.DemoOptions(
        out=out.absolute(),
        root=root,
        data=data.absolute() if data else None,
        providers=providers,
        rounds=rounds,
        strategy=strategy,  # type: ignore[arg-type] # checked above
        aggregation=Aggregation(
            mode=aggregation,  # type: ignore[arg-type] # checked above
            seats=seats,
            threshold=threshold,
            challenges=challenges,
        ),
        seed=seed,
        base_port=base_port,
        database_url=database_url,
        parameters=dict(_pair(text) for text in set_),
        refuse_share=refuse,
        min_contributors=min_contributors,
        granularity=granularity,  # type: ignore[arg-type] # checked above
        learners=learners,
        recruit_seconds=recruit_seconds,
        finetune=finetune,
        central=central,
        force=force,
    )
    running = None
    try:
        shown, running = play.run(options, narrator)
        narrator.close()
        _tell(console, shown, as_json=as_json)
        if keep:
            open_sign_in(shown.stage, running)
            _wait(console, shown)
    except KeyboardInterrupt:
        narrator.close()
        if running is not None:
            running.stop()
        console.print("\nstopped; nothing is left running and nothing half-written is called a result")
        raise typer.Exit(130) from None
    finally:
        narrator.close()
        if running is not None:
            running.stop()
        if folder is None:
            shutil.rmtree(root, ignore_errors=True)


def _tell(console: "Console", shown: "Shown", *, as_json: bool) -> None:
    import json

    from connector.reporting.tables import metrics_table, summary_table

    if as_json:
        print(json.dumps({"out": str(shown.output.folder), "final": shown.report["payload"]["final"]}))
        return
    console.print(metrics_table(shown.report, shown.observations))
    console.print(summary_table(shown.report, shown.observations))
    for path in (shown.output.weights, shown.output.model, shown.output.report, shown.output.page):
        console.print(f"  {path}", highlight=False)


def _wait(console: "Console", shown: "Shown") -> None:
    console.print("\n[bold]Everything keeps running; Ctrl-C stops it.[/bold]")
    for place in shown.stage.places:
        console.print(f"  {place.name}: {place.address}   {place.folder}", highlight=False)
    school = shown.stage.schools[0].place
    console.print("\n[bold]Be a learner or a parent[/bold]: read, answer, see every use, withdraw")
    console.print(f"  {school.name}: {school.address}/my", highlight=False)
    console.print("[bold]Be an operator[/bold] or a data protection officer (sign in with the organisation's account)")
    console.print(f"  {school.name}: {school.address}/operate", highlight=False)
    signal.pause()


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise typer.BadParameter(f"--set {text}: write it as name=value")
    return name, value


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
