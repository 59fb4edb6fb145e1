"""Commands that make and check a participant: init, authority, check-config, migrate, openapi."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_authority = typer.Typer(no_args_is_help=True, help="Run a data space: make its authority, admit participants.")


def add_setup_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    app.command("init")(init)
    app.add_typer(_authority, name="authority")
    app.command("check-config")(check_config)
    app.command("migrate")(migrate)
    app.command("openapi")(openapi)


def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What people call this participant.")],
    organisation: Annotated[str, typer.Option(help="Who runs it.")],
    port: Annotated[int, typer.Option(help="Port of the API.")],
    role: Annotated[str, typer.Option(help="ai-provider or data-provider.")] = "data-provider",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    public_url: Annotated[str, typer.Option(help="URL others reach it by, if not http://HOST:PORT.")] = "",
    authority: Annotated[Path | None, typer.Option(help="The data space's authority.json.")] = None,
    authority_dir: Annotated[Path | None, typer.Option(help="Own the authority? Its folder: admits at once.")] = None,
    dsn: Annotated[str, typer.Option("--database-url", "--dsn", help="SQLAlchemy URL.")] = "sqlite:///orchard.sqlite",
    broker: Annotated[str, typer.Option("--broker-url", help="Valkey or Redis URL, for learning work.")] = "",
    broker_prefix: Annotated[
        str, typer.Option(help="What our keys there begin with, if the broker's owner gave us a prefix.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a participant: configuration, keys, operator token and a membership request."""
    from connector.enrolment import AUTHORITY_FILE, MEMBERSHIP_FILE, Enrolment, admit_request, create_participant

    trusted = authority or (authority_dir / AUTHORITY_FILE if authority_dir is not None else None)
    if trusted is None:
        raise typer.BadParameter(
            "name the data space's authority: --authority FILE, or --authority-dir DIR if it is yours"
        )
    if role not in {"ai-provider", "data-provider"}:
        raise typer.BadParameter("the role is ai-provider or data-provider")
    enrolment = Enrolment(
        name=name,
        organisation=organisation,
        role="ai-provider" if role == "ai-provider" else "data-provider",
        port=port,
        host=host,
        public_url=public_url,
        database_url=dsn,
        broker_url=broker,
        broker_prefix=broker_prefix,
    )
    now = datetime.now(UTC)
    request = create_participant(folder, enrolment, trusted, now)
    admitted = authority_dir is not None
    if authority_dir is not None:
        admit_request(authority_dir, request, folder / MEMBERSHIP_FILE, now)
    if as_json:
        found = {"folder": str(folder), "address": enrolment.address, "request": str(request), "admitted": admitted}
        print(json.dumps(found))
        return
    print(f"{folder} is a participant at {enrolment.address}.")
    if not admitted:
        print(f"Send {request} to the data space's authority and put its answer at {folder / MEMBERSHIP_FILE}.")
    print(f"Next: orchard migrate {folder} && orchard check-config {folder} && orchard serve {folder}")


@_authority.command("init")
def authority_init(folder: Folder, as_json: AsJson = False) -> None:
    """Make the authority of a new data space."""
    from connector.enrolment import AUTHORITY_FILE, create_authority

    made = create_authority(folder)
    if as_json:
        print(json.dumps({"id": made.id, "public_key": made.public_key, "file": str(folder / AUTHORITY_FILE)}))
    else:
        print(f"{folder} is the authority {made.id}.")
        print(f"Give {folder / AUTHORITY_FILE} to participants; keep {folder / 'authority.key'} to yourself.")


@_authority.command("admit")
def authority_admit(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="A participant's membership-request.jwt.")],
    authority: Annotated[Path, typer.Option(help="The authority's folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the membership credential goes.")],
    days: Annotated[int, typer.Option(help="How long the membership lasts.", min=1, max=3650)] = 365,
    as_json: AsJson = False,
) -> None:
    """Admit a participant: sign the membership it asks for. Check who is asking first."""
    from datetime import timedelta

    from connector.enrolment import admit_request

    who = admit_request(authority, request, output, datetime.now(UTC), valid=timedelta(days=days))
    if as_json:
        print(json.dumps({"participant_id": who.participant_id, "address": who.address, "membership": str(output)}))
    else:
        print(f"{who.name} ({who.organisation}) at {who.address} is a member for {days} days: {output}")


def check_config(folder: Folder, as_json: AsJson = False) -> None:
    """Say everything that keeps this participant from serving; exit status 2 if anything does."""
    from connector.checks import problems
    from connector.settings import Settings, SettingsError

    try:
        found = problems(Settings.load(folder))
    except SettingsError as error:
        found = list(error.problems)
    if as_json:
        print(json.dumps({"ok": not found, "problems": found}))
    else:
        print("\n".join(found) or f"{folder} is ready to serve.")
    if found:
        raise typer.Exit(2)


def migrate(folder: Folder, as_json: AsJson = False) -> None:
    """Bring the participant's database to this version's schema."""
    from connector.settings import Settings
    from connector.storage.migrate import head, upgrade

    changed = upgrade(Settings.load(folder).storage.database_url)
    if as_json:
        print(json.dumps({"version": head(), "changed": changed}))
    else:
        print(f"The database is at version {head()}" + ("." if changed else " already."))


def openapi(
    folder: Annotated[Path, typer.Option(help="Where the documents are.")] = Path("openapi"),
    check: Annotated[
        bool, typer.Option("--check", help="Compare instead of writing; exit status 1 if they differ.")
    ] = False,
) -> None:
    """Write the published OpenAPI documents from the routes."""
    from connector import openapi as generator

    if not check:
        for file in generator.write(folder):
            print(file)
        return
    try:
        generator.check(folder)
    except generator.OpenapiError as error:
        print(error)
        raise typer.Exit(1) from None
