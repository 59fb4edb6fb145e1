"""`orchard peer`, `catalog`, `negotiate`, `agreements`: meet participants, see what they offer, agree on terms."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlencode

import typer

from connector.cli.own import AsJson, Folder, operator, show_json

if TYPE_CHECKING:
    from connector.peers.operator import OperatorClient

Peer = Annotated[str, typer.Argument(metavar="PEER", help="A participant's public URL or its id (did:web:...).")]

_ENDS = frozenset({"FINALIZED", "TERMINATED"})
_LOOK_SECONDS = 0.1

_peer = typer.Typer(no_args_is_help=True, help="Get to know other participants of the data space.")


class NegotiationEndedError(Exception):
    """A negotiation did not lead to an agreement; the message says who ended it and why."""

    code = "negotiation-ended"


class NothingOfferedError(Exception):
    """The peer offers nothing to train on; it is the peer's to publish."""

    code = "nothing-offered"


def add_exchange_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.add_typer(_peer, name="peer")
    app.command("catalog")(catalog)
    app.command("negotiate")(negotiate)
    app.command("agreements")(agreements)


@_peer.command("add")
def add(
    folder: Folder,
    address: Annotated[str, typer.Argument(metavar="URL", help="Its public URL.")],
    as_json: AsJson = False,
) -> None:
    """Get to know the participant at a URL: its membership is fetched, verified and remembered."""
    with operator(folder) as own:
        peer = own.post("/management/peers", {"address": address})
    if as_json:
        show_json(peer)
    else:
        print(f"{peer['name']} ({peer['organisation']}) is a member of this data space: {peer['participant_id']}")


@_peer.command("list")
def listing(folder: Folder, as_json: AsJson = False) -> None:
    """List the participants that this one knows."""
    with operator(folder) as own:
        peers = _peers(own)
    if as_json:
        show_json(peers)
        return
    for peer in peers:
        print(f"{peer['participant_id']}\t{peer['address']}\t{peer['name']}\t{', '.join(peer['roles'])}")
    if not peers:
        print(f"It knows nobody yet; add a participant with: orchard peer add {folder} URL")


def catalog(
    folder: Folder,
    peer: Annotated[
        str | None, typer.Argument(metavar="[PEER]", help="A participant's public URL or its id; without, all we know.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Search in what is known of all catalogs for this text.")] = None,
    refresh: Annotated[bool, typer.Option(help="Read again now what is kept of the catalogs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a participant offers to us now; without one, how the catalogs of all were last read."""
    with operator(folder) as own:
        participant = _participant(own, peer) if peer is not None else None
        if refresh:
            own.post("/management/catalogs/refresh", {"participant_id": participant})
        if text is not None:
            _show_found(_search(own, participant, text), as_json=as_json)
        elif participant is None:
            _show_statuses(_statuses(own), as_json=as_json)
        else:
            _show_datasets(_datasets(own, participant), as_json=as_json)


def _show_found(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    for one in found:
        title = one["dataset"].get("title") or one["dataset"].get("dct:title") or ""
        print(f"{one['participant_id']}\t{one['dataset_id']}\t{', '.join(one['formats'])}\t{title}")
    if not found:
        print("No participant has shown us such a dataset.")


def _show_statuses(statuses: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show_json(statuses)
        return
    for one in statuses:
        read = f"read at {one['last_success_at']}" if one["last_success_at"] else "never read"
        failed = f"\tfailed {one['failures']} times: {one['error']}" if one["error"] else ""
        next_at = f"next at {one['next_attempt_at']}"
        print(f"{one['participant_id']}\t{one['datasets']} datasets\t{read}\t{next_at}{failed}")
    if not statuses:
        print("No catalog has been read yet; add a participant with: orchard peer add DIR URL")


def _show_datasets(datasets: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show_json(datasets)
        return
    for dataset in datasets:
        title = dataset.get("title") or dataset.get("dct:title") or ""
        ways = ", ".join(sorted({str(entry.get("format")) for entry in dataset.get("distribution", [])}))
        print(f"{dataset['@id']}\t{ways}\t{title}")
    if not datasets:
        print("It offers nothing to us.")


def negotiate(
    folder: Folder,
    peer: Peer,
    dataset: Annotated[
        str | None, typer.Option(help="The dataset's id; without, the one that is offered for training.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to wait for the end.", min=0)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Ask for a dataset on its published terms, and wait until the contract stands or somebody says no."""
    with operator(folder) as own:
        participant = _participant(own, peer)
        wanted = dataset or _for_training(own, participant)
        body = {"participant_id": participant, "dataset_id": wanted}
        found = _wait(own, own.post("/management/negotiations", body)["pid"], seconds)
    if as_json:
        show_json(found)
    elif found["state"] == "FINALIZED":
        print(f"Agreed: {found['agreement_id']}")
    if found["state"] != "FINALIZED":
        reasons = "; ".join(found["reasons"]) or f"it waits for: {found['waiting_for']}"
        raise NegotiationEndedError(f"no agreement with {participant}: the negotiation is {found['state']} ({reasons})")


def agreements(folder: Folder, as_json: AsJson = False) -> None:
    """List the agreements in force, newest first."""
    with operator(folder) as own:
        found = all_agreements(own)
    if as_json:
        show_json(found)
        return
    for one in found:
        print(f"{one['id']}\t{one['counterparty']}\t{one['dataset_id']}\t{one['concluded_at']}")
    if not found:
        print("There is no agreement yet.")


def all_agreements(own: "OperatorClient") -> list[dict[str, Any]]:
    """Return every agreement of our own participant, newest first."""
    found: list[dict[str, Any]] = []
    query = "?limit=500"
    while True:
        page = own.get(f"/management/agreements{query}")
        found += page["agreements"]
        if page["next"] is None:
            return found
        query = f"?limit=500&cursor={quote(page['next'], safe='')}"


def _peers(own: "OperatorClient") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = own.get(f"/management/peers?limit=500&after={quote(after, safe='')}")
        found += page["peers"]
        if page["next"] is None:
            return found
        after = page["next"]


def _participant(own: "OperatorClient", peer: str) -> str:
    """Return the id of a peer given by its id or its address; one at a new address is got to know first."""
    if peer.startswith("did:"):
        return peer
    known = [one for one in _peers(own) if one["address"] == peer.rstrip("/")]
    return str((known[0] if known else own.post("/management/peers", {"address": peer}))["participant_id"])


def _datasets(own: "OperatorClient", participant: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    body: dict[str, Any] = {"participant_id": participant}
    while True:
        page = own.post("/management/catalog/request", body)
        found += page["datasets"]
        if page["next"] is None:
            return found
        body = {"participant_id": participant, "cursor": page["next"]}


def _search(own: "OperatorClient", participant: str | None, text: str) -> list[dict[str, Any]]:
    asked = {"text": text, "limit": "500"} | ({"participant_id": participant} if participant else {})
    found: list[dict[str, Any]] = []
    while True:
        page = own.get(f"/management/catalog/datasets?{urlencode(asked)}")
        found += page["datasets"]
        if page["next"] is None:
            return found
        asked["cursor"] = page["next"]


def _statuses(own: "OperatorClient") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = own.get(f"/management/catalogs?{urlencode({'limit': 500, 'after': after})}")
        found += page["catalogs"]
        if page["next"] is None:
            return found
        after = page["next"]


def _for_training(own: "OperatorClient", participant: str) -> str:
    found = [
        str(dataset["@id"])
        for dataset in _datasets(own, participant)
        if any(entry.get("format") == "FederatedTraining" for entry in dataset.get("distribution", []))
    ]
    if not found:
        raise NothingOfferedError(
            f"{participant} offers us no dataset for training; its operator publishes one with: orchard dataset publish"
        )
    if len(found) > 1:
        raise NothingOfferedError(f"{participant} offers several datasets: name one by --dataset ({', '.join(found)})")
    return found[0]


def _wait(own: "OperatorClient", pid: str, seconds: float) -> Mapping[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        found: Mapping[str, Any] = own.get(f"/management/negotiations/{pid}")
        if found["state"] in _ENDS or time.monotonic() > deadline:
            return found
        time.sleep(_LOOK_SECONDS)
