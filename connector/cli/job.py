"""`orchard job` and `orchard tree`: start training jobs, follow them, fetch what they made."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from connector.cli.exchange import all_agreements
from connector.cli.own import AsJson, Folder, operator, show_json

if TYPE_CHECKING:
    from connector.peers.operator import OperatorClient

app = typer.Typer(no_args_is_help=True, help="Train together: start jobs, follow them, fetch the model.")
tree = typer.Typer(no_args_is_help=True, help="Who trains and who sums in a job.")

JobId = Annotated[str, typer.Argument(metavar="[JOB]", help="The job's id, or how it begins; the newest without.")]
_URN = "urn:uuid:"


class JobCommandError(Exception):
    """The command does not fit the job or the plan; whoever typed it can mend it."""

    code = "job-command"


class JobEndedError(Exception):
    """The job that was watched did not complete; the message gives its state and its reason."""

    code = "job-ended"


@app.command("start")
def start(
    folder: Folder,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A training plan, JSON or TOML.")],
    agreement: Annotated[
        list[str] | None,
        typer.Option(help="An agreement to train under, once per provider; without, the newest with each provider."),
    ] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sign a training plan and start a job over agreements; the providers are asked to approve it."""
    payload = _read_plan(plan)
    with operator(folder) as own:
        chosen = agreement or newest_agreements(own)
        digest = own.post("/management/plans", payload)["plan_digest"]
        job = own.post("/management/jobs", {"plan_digest": digest, "agreements": chosen})
        if as_json:
            show_json(job)
        else:
            print(f"Job {job['job_id']} started: plan {digest}, {len(chosen)} providers.")
        if follow:
            _watch(own, job["job_id"], as_json=as_json)


@app.command("list")
def listing(
    folder: Folder,
    state: Annotated[str | None, typer.Option(help="Only jobs in this state, e.g. RUNNING.")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with operator(folder) as own:
        jobs = own.get("/management/jobs" + (f"?state={state.upper()}" if state else ""))
    if as_json:
        show_json(jobs)
        return
    for job in jobs:
        print(f"{job['job_id']}\t{job['state']}\tround {job['round']}\t{job['created_at']}\t{job['reason'] or ''}")
    if not jobs:
        print("There is no job.")


@app.command("show")
def show(folder: Folder, job: JobId = "", as_json: AsJson = False) -> None:
    """Show a job: its providers with their states, its rounds, and what happened."""
    with operator(folder) as own:
        found = own.get(f"/management/jobs/{_job_id(own, job)}")
    if as_json:
        show_json(found)
        return
    print(f"{found['job_id']}  {found['state']}" + (f": {found['reason']}" if found["reason"] else ""))
    print(f"plan {found['plan_digest']}")
    for member in found["members"]:
        print(f"  {member['name']}: {member['state']}" + (f" ({member['reason']})" if member["reason"] else ""))
    for one in found["rounds"]:
        counted = f"{len(one['contributors'])} of {one['expected']}"
        why = f" ({one['reason']})" if one["reason"] else ""
        print(f"  round {one['round']}, attempt {one['attempt']}: {one['state']}, {counted}{why}")
    for line in found["timeline"]:
        print(f"  {line['at'][11:19]}  {line['text']}")


@app.command("watch")
def watch(folder: Folder, job: JobId = "", as_json: AsJson = False) -> None:
    """Follow a job live until it ends; exit status 2 unless it completes."""
    with operator(folder) as own:
        _watch(own, _job_id(own, job), as_json=as_json)


@app.command("plan")
def plan(folder: Folder, job: JobId = "") -> None:
    """Print a job's training plan as JSON: a start for the next one."""
    with operator(folder) as own:
        digest = own.get(f"/management/jobs/{_job_id(own, job)}")["plan_digest"]
        show_json(own.get(f"/management/plans/{digest}")["document"]["payload"])


@app.command("fetch")
def fetch(
    folder: Folder,
    job: JobId = "",
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")] = Path("job-out"),
    view: Annotated[
        str | None, typer.Option(help="The feature view, a file or a bundled one's name, to keep with the model.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Move a foreign folder aside.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a completed job's model and signed report, and write them with a page to read."""
    from connector.reporting.build_output import check_destination, write_output
    from connector.sources.providers import bundled_views

    check_destination(out.absolute(), force=force)
    named = {path.stem: path for path in bundled_views()}
    document = tomllib.loads(named.get(view, Path(view)).read_text(encoding="utf-8")) if view else None
    with operator(folder) as own:
        job_id = _job_id(own, job)
        report = own.get(f"/management/jobs/{job_id}/report")
        weights = own.get_bytes(f"/management/jobs/{job_id}/model")
    spec = report["payload"]["plan"]["model"]
    written = write_output(out.absolute(), report, weights, spec, document, force=force)
    if as_json:
        show_json({"out": str(written.folder), "final": report["payload"]["final"]})
        return
    for path in (written.weights, written.model, written.report, written.page):
        print(path)


@app.command("cancel")
def cancel(
    folder: Folder,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, or how it begins.")],
    reason: Annotated[str, typer.Option(help="Why; its providers are told.")] = "cancelled by its owner",
    as_json: AsJson = False,
) -> None:
    """End a job now; no result of it is kept."""
    with operator(folder) as own:
        found = own.post(f"/management/jobs/{_job_id(own, job)}/cancel", {"reason": reason})
    if as_json:
        show_json(found)
    else:
        print(f"{found['job_id']} is {found['state']}: {found['reason']}")


@tree.command("show")
def show_tree(folder: Folder, job: JobId = "", as_json: AsJson = False) -> None:
    """Show a job's execution tree: the collector, the seats that sum, and who contributes."""
    with operator(folder) as own:
        job_id = _job_id(own, job)
        found = own.get(f"/management/jobs/{job_id}/tree")
        names = {one["participant_id"]: one["name"] for one in own.get(f"/management/jobs/{job_id}")["members"]}
    if as_json:
        show_json(found)
        return
    print(f"manifest {found['manifest_digest']}")
    print(f"collector {found['collector']}: adds what the top's seats release, and sees only that")
    for line in tree_lines(found, names):
        print(line)


def tree_lines(found: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return a job's tree as indented lines: groups with their seats, who contributes to which leaf, who was lost."""
    lines = []
    last = {group["group"]: group for group in found["rounds"][-1]["groups"]} if found["rounds"] else {}
    for group in found["groups"]:
        depth = "  " * (group["name"].count(".") + 1)
        what = "leaf group" if group["leaf"] else "group"
        lines.append(f"{depth}{what} {group['name']}")
        for number, seat in enumerate(group["seats"]):
            before = group["first_seats"][number]
            instead = "" if seat == before else f", instead of {names.get(before, before)}"
            lines.append(f"{depth}  seat {number}: {names.get(seat, seat)}{instead}")
        lines += [f"{depth}  contributor: {names.get(member, member)}" for member in group["members"]]
        if group["name"] in last:
            lines.append(f"{depth}  last sum: {_last_sum(last[group['name']], leaf=group['leaf'])}")
    if found["granularity"] == "learner":
        lines.append(
            "  contributors: the learners of " + ", ".join(names.get(one, one) for one in found["contributors"])
        )
    elif found["aggregation"] == "clear":
        lines += [f"    contributor: {names.get(one, one)}" for one in found["contributors"]]
    if found["seats"]:
        lines.append(f"  any {found['threshold']} of {len(found['seats'])} seats of a group learn nothing")
    for row in found["rounds"]:
        for group in row["groups"]:
            trouble = _trouble(group)
            lines += [f"  round {row['round']}: group {group['group']}: {trouble}"] if trouble else []
    return lines + [f"  warning: {warning}" for warning in found["warnings"]]


def _last_sum(group: Mapping[str, Any], *, leaf: bool) -> str:
    count = f"{group['contributors']} contributions, " if leaf else ""
    when = "" if group["seconds"] is None else f" after {group['seconds']:.1f} s"
    return f"{count}{group['shares']} shares, {group['bytes']:,} bytes{when}"


def _trouble(group: Mapping[str, Any]) -> str:
    if not group["inside"]:
        return f"left out ({group['reason']})"
    parts = []
    if group["lost"]:
        parts.append("work of seats " + ", ".join(map(str, group["lost"])) + " taken over")
    if group["in_this_round"]:
        parts.append("seats " + ", ".join(map(str, group["in_this_round"])) + " replaced")
    return "; ".join(parts)


def newest_agreements(own: "OperatorClient") -> list[str]:
    """Return our newest agreement with each provider.

    Raises:
        JobCommandError: we have none as a consumer.
    """
    newest: dict[str, str] = {}
    for one in all_agreements(own):
        if one["role"] == "consumer":
            newest.setdefault(one["counterparty"], one["id"])
    if not newest:
        raise JobCommandError("there is no agreement to train under; make one with: orchard negotiate DIR PEER")
    return list(newest.values())


def _watch(own: "OperatorClient", job_id: str, *, as_json: bool) -> None:
    from rich.console import Console

    from connector.reporting.live import ConsoleNarrator, tell_events

    found = own.get(f"/management/jobs/{job_id}")
    total = own.get(f"/management/plans/{found['plan_digest']}")["document"]["payload"]["rounds"] + 1
    if as_json:
        for code, data in own.follow_job(job_id):
            print(json.dumps({"event": code, **data}, ensure_ascii=False), flush=True)
    else:
        narrator = ConsoleNarrator(Console())
        try:
            tell_events(own.follow_job(job_id), total, narrator)
        finally:
            narrator.close()
    found = own.get(f"/management/jobs/{job_id}")
    if found["state"] != "COMPLETED":
        raise JobEndedError(f"the job ended {found['state']}: {found['reason']}")


def _job_id(own: "OperatorClient", given: str) -> str:
    """Return the one job that an id or its beginning names; the newest for an empty one."""
    jobs = [str(job["job_id"]) for job in own.get("/management/jobs")]
    found = [job for job in jobs if job == given or job.removeprefix(_URN).startswith(given.removeprefix(_URN))]
    if not jobs:
        raise JobCommandError(f"there is no job at {own.base_url}")
    if not given:
        return jobs[0]
    if len(found) != 1:
        raise JobCommandError(f"{len(found)} jobs are called {given}; orchard job list shows them")
    return found[0]


def _read_plan(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise JobCommandError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise JobCommandError(f"{path}: is not {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from error
    # A signed document carries its plan as payload; we sign anew.
    return value["payload"] if isinstance(value, dict) and "payload" in value else value
