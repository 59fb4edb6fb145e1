"""`orchard plan`: what a data provider does about training plans that its agreements' consumers registered."""

import time
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from connector.cli.own import AsJson, Folder, operator, show_json

if TYPE_CHECKING:
    from connector.peers.operator import OperatorClient

app = typer.Typer(no_args_is_help=True, help="Training plans received: see, approve, refuse.")

Digest = Annotated[str, typer.Argument(metavar="[PLAN]", help="The plan's digest, or how it begins.")]

_LOOK_SECONDS = 0.2


class PlanCommandError(Exception):
    """No plan, or no single one, is called this; whoever typed it can mend it."""

    code = "plan-command"


@app.command("list")
def listing(folder: Folder, as_json: AsJson = False) -> None:
    """List the plans received, with what was decided about them."""
    with operator(folder) as own:
        plans = own.get("/management/received-plans")
    if as_json:
        show_json(plans)
        return
    for plan in plans:
        title, purpose = plan["plan"]["title"], plan["plan"]["purpose"]
        print(f"{plan['plan_digest'][:16]}\t{plan['state']}\t{title}\t{purpose}\t{plan['consumer']}")
    if not plans:
        print("No plan was received.")


@app.command("show")
def show(folder: Folder, digest: Digest = "") -> None:
    """Print a received plan as JSON: model, purpose, rounds, what is asked of the data."""
    with operator(folder) as own:
        show_json(_plans(own, digest, None)[0])


@app.command("approve")
def approve(
    folder: Folder,
    digest: Digest = "",
    wait: Annotated[float, typer.Option(help="Seconds to wait for a plan to come in.", min=0)] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Approve a pending plan by its digest; the only pending one without."""
    _decide(folder, digest, "approve", {}, as_json=as_json, wait=wait)


@app.command("refuse")
def refuse(
    folder: Folder,
    digest: Digest = "",
    reason: Annotated[
        str, typer.Option(help="Why; the plan's author is told.")
    ] = "refused by this provider's operator",
    as_json: AsJson = False,
) -> None:
    """Refuse a pending plan by its digest; the only pending one without."""
    _decide(folder, digest, "refuse", {"reason": reason}, as_json=as_json)


def _decide(folder: Folder, digest: str, verb: str, body: dict[str, Any], *, as_json: bool, wait: float = 0.0) -> None:
    deadline = time.monotonic() + wait
    with operator(folder) as own:
        while time.monotonic() < deadline and not _pending(own):
            time.sleep(_LOOK_SECONDS)
        decided = [
            own.post(
                f"/management/received-plans/{plan['plan_digest']}/{verb}"
                f"?agreement_id={quote(plan['agreement_id'], safe='')}",
                body,
            )
            for plan in _plans(own, digest, "PENDING")
        ]
    if as_json:
        show_json(decided)
        return
    for plan in decided:
        print(f"plan {plan['plan_digest'][:16]} is {plan['state']} under agreement {plan['agreement_id']}")


def _pending(own: "OperatorClient") -> bool:
    return any(plan["state"] == "PENDING" for plan in own.get("/management/received-plans"))


def _plans(own: "OperatorClient", digest: str, state: str | None) -> list[dict[str, Any]]:
    """Return the received entries of one plan: one for each agreement that it was registered under."""
    plans = [plan for plan in own.get("/management/received-plans") if state in (None, plan["state"])]
    found = [plan for plan in plans if plan["plan_digest"].startswith(digest)]
    names = {plan["plan_digest"] for plan in found}
    if len(names) != 1:
        what = "pending plan" if state else "plan"
        raise PlanCommandError(f"{len(names)} {what}s are called '{digest}'; orchard plan list shows them")
    return found
