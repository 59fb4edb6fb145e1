"""`orchard negotiation` and `orchard transfer`: look at processes, see why one stands still, decide, follow it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

import typer

from connector.cli.own import AsJson, Folder, operator, show_json

if TYPE_CHECKING:
    from connector.peers.operator import OperatorClient

negotiations = typer.Typer(no_args_is_help=True, help="Look at negotiations, and decide in them.")
transfers = typer.Typer(no_args_is_help=True, help="Look at transfers; begin, pause and end them.")

Pid = Annotated[str, typer.Argument(metavar="PID", help="The process's id at this participant.")]
State = Annotated[str | None, typer.Option(help="Only those in this state, e.g. REQUESTED.")]
PeerId = Annotated[str | None, typer.Option("--peer", help="Only those with this participant (did:web:...).")]
DatasetId = Annotated[str | None, typer.Option("--dataset", help="Only those about this dataset.")]
Most = Annotated[int, typer.Option(help="How many to show, newest first.", min=1, max=10_000)]
Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Why; told to the peer. May be repeated.")]

_PAGE = 500


class OfferFileError(Exception):
    """The file with the other terms cannot be read; the operator's to mend."""

    code = "offer-file"


@negotiations.command("list")
def list_negotiations(
    folder: Folder,
    state: State = None,
    peer: PeerId = None,
    dataset: DatasetId = None,
    most: Most = 50,
    as_json: AsJson = False,
) -> None:
    """List negotiations, newest first; whatever a peer has not taken is said beside it."""
    _list(folder, "negotiations", {"state": state, "counterparty": peer, "dataset": dataset}, most, as_json=as_json)


@transfers.command("list")
def list_transfers(
    folder: Folder,
    state: State = None,
    peer: PeerId = None,
    dataset: DatasetId = None,
    most: Most = 50,
    as_json: AsJson = False,
) -> None:
    """List transfers, newest first; whatever a peer has not taken is said beside it."""
    _list(folder, "transfers", {"state": state, "counterparty": peer, "dataset": dataset}, most, as_json=as_json)


@negotiations.command("show")
def show_negotiation(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Show a negotiation: its state, the last message and what the peer said to it, the next try, the history."""
    _show(folder, "negotiations", pid, as_json=as_json)


@transfers.command("show")
def show_transfer(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Show a transfer: its state, the last message and what the peer said to it, the next try, the history."""
    _show(folder, "transfers", pid, as_json=as_json)


@negotiations.command("watch")
def watch_negotiation(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Follow a negotiation's events as they happen, to its end."""
    _watch(folder, "negotiations", pid, as_json=as_json)


@transfers.command("watch")
def watch_transfer(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Follow a transfer's events as they happen, to its end."""
    _watch(folder, "transfers", pid, as_json=as_json)


@negotiations.command("approve")
def approve(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Say yes to what is on the table: agree as provider, accept as consumer."""
    _command(folder, "negotiations", pid, "approve", None, as_json=as_json)


@negotiations.command("counter")
def counter(
    folder: Folder,
    pid: Pid,
    offer: Annotated[Path, typer.Argument(metavar="FILE", help="The other terms: an ODRL offer as JSON.")],
    as_json: AsJson = False,
) -> None:
    """Answer with other terms for the same dataset."""
    try:
        terms = json.loads(offer.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OfferFileError(f"{offer}: cannot be read as JSON") from error
    _command(folder, "negotiations", pid, "counter", {"offer": terms}, as_json=as_json)


@negotiations.command("terminate")
def terminate_negotiation(folder: Folder, pid: Pid, reasons: Reasons = None, as_json: AsJson = False) -> None:
    """End a negotiation, saying why."""
    _command(folder, "negotiations", pid, "terminate", {"reasons": reasons or []}, as_json=as_json)


@transfers.command("start")
def start(
    folder: Folder,
    agreement: Annotated[str, typer.Argument(metavar="AGREEMENT", help="The agreement's id.")],
    form: Annotated[str, typer.Option("--format", help="What the transfer is for.")] = "FederatedTraining",
    as_json: AsJson = False,
) -> None:
    """Ask the provider of an agreement for a transfer. A training job does this by itself."""
    with operator(folder) as own:
        found = own.post("/management/transfers", {"agreement_id": agreement, "format": form})
    _said(found, as_json=as_json)


@transfers.command("suspend")
def suspend(folder: Folder, pid: Pid, reasons: Reasons = None, as_json: AsJson = False) -> None:
    """Pause a transfer."""
    _command(folder, "transfers", pid, "suspend", {"reasons": reasons or []}, as_json=as_json)


@transfers.command("resume")
def resume(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Go on with a paused transfer."""
    _command(folder, "transfers", pid, "resume", None, as_json=as_json)


@transfers.command("complete")
def complete(folder: Folder, pid: Pid, as_json: AsJson = False) -> None:
    """Say that a transfer is done."""
    _command(folder, "transfers", pid, "complete", None, as_json=as_json)


@transfers.command("terminate")
def terminate_transfer(folder: Folder, pid: Pid, reasons: Reasons = None, as_json: AsJson = False) -> None:
    """End a transfer, saying why."""
    _command(folder, "transfers", pid, "terminate", {"reasons": reasons or []}, as_json=as_json)


def _list(folder: Path, what: str, asked: Mapping[str, str | None], most: int, *, as_json: bool) -> None:
    with operator(folder) as own:
        found = _pages(own, what, {name: value for name, value in asked.items() if value}, most)
    if as_json:
        show_json(found)
        return
    for one in found:
        line = [one["pid"], one["state"], one["counterparty"], one["dataset_id"], _trouble(one) or _turn(one)]
        print("\t".join(line))
    if not found:
        print("There are none.")


def _pages(own: "OperatorClient", what: str, asked: Mapping[str, str], most: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, str | int] = {**asked, "limit": min(most, _PAGE)}
    while True:
        page = own.get(f"/management/{what}?{urlencode(query)}")
        found += page[what]
        if page["next"] is None or len(found) >= most:
            return found[:most]
        query["cursor"] = page["next"]


def _show(folder: Path, what: str, pid: str, *, as_json: bool) -> None:
    with operator(folder) as own:
        found = own.get(f"/management/{what}/{quote(pid, safe=':')}")
    if as_json:
        show_json(found)
        return
    print(f"{found['pid']} with {found['counterparty']}; we are the {found['role']}; about {found['dataset_id']}")
    print(f"State: {found['state']} since {found['updated_at']}; {_turn(found)}")
    for reason in found["reasons"]:
        print(f"Reason: {reason}")
    if found["delivery"] is not None:
        print(f"Last message: {_delivery(found['delivery'])}")
    for letter in found["dead_letters"]:
        print(f"Given up: {_delivery(letter)}")
    print("History:")
    for event in found["events"]:
        print(f"  {_event(event)}")


def _watch(folder: Path, what: str, pid: str, *, as_json: bool) -> None:
    with operator(folder) as own:
        own.get(f"/management/{what}/{quote(pid, safe=':')}")
        for _, event in own.follow(f"/management/{what}/{quote(pid, safe=':')}/events/stream"):
            print(json.dumps(event) if as_json else _event(event), flush=True)


def _command(folder: Path, what: str, pid: str, verb: str, body: object, *, as_json: bool) -> None:
    with operator(folder) as own:
        found = own.post(f"/management/{what}/{quote(pid, safe=':')}/{verb}", body)
    _said(found, as_json=as_json)


def _said(found: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
    else:
        print(f"{found['pid']} is {found['state']}; {_turn(found)}")


def _turn(process: Mapping[str, Any]) -> str:
    waits = process["waiting_for"]
    if waits is None:
        return "it has ended" if process["state"] in {"FINALIZED", "TERMINATED", "COMPLETED"} else "it runs"
    return "it is our turn" if waits == "us" else "it waits for the peer"


def _trouble(process: Mapping[str, Any]) -> str | None:
    delivery = process["delivery"]
    if delivery is None or (delivery["attempts"] <= 1 and delivery["last_attempt_at"] is None):
        return None
    return _delivery(delivery)


def _delivery(delivery: Mapping[str, Any]) -> str:
    said = [f"{delivery['step']} is {delivery['status']}"]
    if delivery["attempts"]:
        said.append(f"tried {delivery['attempts']} times")
    if delivery["last_attempt_at"]:
        said.append(f"last at {delivery['last_attempt_at']}")
    if delivery["last_status"] is not None:
        answer = " ".join(str(part) for part in (delivery["last_status"], delivery["last_code"]) if part is not None)
        said.append(f"the peer answered {answer}")
    if delivery["last_answer"]:
        said.append(delivery["last_answer"])
    if delivery["next_attempt_at"]:
        said.append(f"next try at {delivery['next_attempt_at']}")
    return "; ".join(said)


def _event(event: Mapping[str, Any]) -> str:
    reasons = f" ({'; '.join(event['reasons'])})" if event["reasons"] else ""
    return f"{event['at']}  {event['direction']} {event['step']} -> {event['state']}{reasons}"
