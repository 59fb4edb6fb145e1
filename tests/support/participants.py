"""Participants for tests: real folders, keys and databases, talking to each other inside one process."""

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from connector.app import Wiring, create_app
from connector.enrolment import (
    AUTHORITY_FILE,
    MEMBERSHIP_FILE,
    Enrolment,
    Role,
    admit_request,
    create_authority,
    create_participant,
)
from connector.foundation import Foundation, lay_foundation
from connector.settings import Settings
from connector.storage.migrate import upgrade


def enrol(
    folder: Path,
    authority: Path,
    *,
    name: str,
    port: int,
    role: Role = "data-provider",
    database_url: str = "sqlite:///orchard.sqlite",
    broker_url: str = "",
) -> Settings:
    """Make a participant in ``folder`` that the authority in ``authority`` has admitted, with a migrated database."""
    if not (authority / AUTHORITY_FILE).exists():
        create_authority(authority)
    enrolment = Enrolment(
        name=name, organisation=name, role=role, port=port, database_url=database_url, broker_url=broker_url
    )
    now = datetime.now(UTC)
    request = create_participant(folder, enrolment, authority / AUTHORITY_FILE, now)
    admit_request(authority, request, folder / MEMBERSHIP_FILE, now)
    settings = Settings.load(folder, {})
    upgrade(settings.storage.database_url)
    return settings


class Network(httpx2.BaseTransport):
    """Carries requests between the apps of one process by host and port; a missing one refuses the connection."""

    def __init__(self) -> None:
        self.apps: dict[str, TestClient] = {}
        self.seen: list[tuple[str, str]] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Deliver one request to the app at its address."""
        self.seen.append((request.method, str(request.url)))
        client = self.apps.get(f"{request.url.scheme}://{request.url.netloc.decode()}")
        if client is None:
            raise httpx2.ConnectError("nobody listens there", request=request)
        answer = client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers.items())
        )
        return httpx2.Response(answer.status_code, headers=answer.headers.multi_items(), content=answer.content)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Participant:
    """One running participant: its settings and foundation, its app, and a client that calls as its operator."""

    settings: Settings
    foundation: Foundation
    app: FastAPI
    client: TestClient

    @property
    def id(self) -> str:
        """The participant id."""
        return self.settings.participant.id

    @property
    def operator(self) -> dict[str, str]:
        """The header of this participant's operator."""
        return {"authorization": f"Bearer {self.settings.management.token_file.read_text().strip()}"}


class Space:
    """A data space in one process: an authority, and participants as they are added."""

    def __init__(self, folder: Path, wire: Callable[[Foundation], Wiring]) -> None:
        self.folder = folder
        self.network = Network()
        self._wire = wire
        self._running: list[TestClient] = []

    def add(self, name: str, port: int, *, role: Role = "data-provider", **options: str) -> Participant:
        """Make, wire and start a participant reached at ``http://127.0.0.1:PORT`` inside this space only."""
        settings = enrol(self.folder / name, self.folder / "authority", name=name, port=port, role=role, **options)
        foundation = lay_foundation(settings, transport=self.network)
        app = create_app(settings, self._wire(foundation))
        client = TestClient(app, base_url=settings.server.public_url, raise_server_exceptions=False)
        client.__enter__()
        self._running.append(client)
        self.network.apps[settings.server.public_url] = client
        return Participant(settings=settings, foundation=foundation, app=app, client=client)

    def close(self) -> None:
        """Stop every participant, the last first."""
        while self._running:
            self._running.pop().__exit__(None, None, None)


@pytest.fixture
def data_space(tmp_path: Path) -> Iterator[Space]:
    """Give an empty data space whose participants are wired as ``orchard serve`` wires them."""
    from connector.wiring import wire_api  # noqa: PLC0415 - every room; tests of one room need not load it

    space = Space(tmp_path, wire_api)
    yield space
    space.close()
