"""How a command reaches the participant whose folder it is given: its own management API, with its operator's token."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from connector.peers.operator import OperatorClient

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The participant's folder; its API must be running.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@contextmanager
def operator(folder: Path) -> "Iterator[OperatorClient]":
    """Give a client of the participant in ``folder`` for a moment.

    Raises:
        SettingsError: there is no participant.
        IdentityFileError: its operator token is missing or open to others.
        OperatorError: its API does not answer, or refuses.
    """
    from connector.identity.files import read_secret
    from connector.peers.operator import OperatorClient, OperatorError
    from connector.settings import Settings

    settings = Settings.load(folder)
    client = OperatorClient(settings.server.public_url, read_secret(settings.management.token_file))
    try:
        yield client
    except OperatorError as error:
        if error.status is None:
            raise OperatorError(f"{error}; start it with: orchard serve {folder}") from error
        raise
    finally:
        client.close()


def show_json(value: Any) -> None:
    """Print a value for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
