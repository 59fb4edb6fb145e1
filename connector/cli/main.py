"""The command ``orchard``. Commands are thin; what they need is imported when they run."""

import sys

import typer

from connector.cli import audit, consent, dataset, job, plan, policy, process, source
from connector.cli.demo import demo
from connector.cli.exchange import add_exchange_commands
from connector.cli.predict import add_predict_command
from connector.cli.serve import add_serve_commands
from connector.cli.setup import add_setup_commands

app = typer.Typer(
    name="orchard",
    help="A data-space connector that trains models where the data lives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
add_setup_commands(app)
add_serve_commands(app)
add_predict_command(app)
add_exchange_commands(app)
app.add_typer(process.negotiations, name="negotiation")
app.add_typer(process.transfers, name="transfer")
app.add_typer(source.app, name="source")
app.add_typer(dataset.app, name="dataset")
app.add_typer(consent.app, name="consent")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
app.add_typer(plan.app, name="plan")
app.add_typer(job.app, name="job")
app.add_typer(job.tree, name="tree")
app.command("demo")(demo)


def main() -> None:
    """Run a command; an error of ours that an operator can mend is told in its own words, without a traceback."""
    try:
        app()
    except Exception as error:
        # Errors with a stable code are written for people; any other is a fault of this program.
        if not isinstance(getattr(error, "code", None), str):
            raise
        for line in str(error).splitlines():
            print(f"orchard: {line}", file=sys.stderr)
        sys.exit(2)
