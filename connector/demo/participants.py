"""Making and running the demo's participants: nothing here but what an operator would type."""

import dataclasses
import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from connector.demo.processes import orchard, start
from connector.enrolment import AUTHORITY_FILE, MEMBERSHIP_FILE, Enrolment, admit_request, create_participant
from connector.peers.operator import OperatorClient, OperatorError
from connector.settings import Settings
from connector.storage.migrate import upgrade

READY_SECONDS = 60.0
COHORT_FLOOR = 10
PURPOSE = "https://w3id.org/orchard/KnowledgeTracing"


class DemoError(Exception):
    """The demo cannot go on; one sentence that says whose fault it is and what to do."""

    code = "demo"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One participant of the demo: its folder, its address, and how it is called."""

    slug: str
    name: str
    folder: Path
    port: int

    @property
    def address(self) -> str:
        """The participant's public URL."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> OperatorClient:
        """Return a client with the operator's token."""
        return OperatorClient(self.address, (self.folder / "operator.token").read_text(encoding="utf-8").strip())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """What a school offers: which rows under which view, for which purpose, for how long."""

    view: Path
    data: Path
    parameters: Mapping[str, str]
    purpose: str
    algorithm_class: str
    recipients: Sequence[str]
    cohort_floor: int = COHORT_FLOOR
    days: int = 365


def free_ports(count: int, first: int | None) -> list[int]:
    """Return ports to listen on: ``first`` and the following ones, or any free ones.

    Raises:
        DemoError: a port that was asked for is in use.
    """
    if first is not None:
        for port in range(first, first + count):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise DemoError(
                        f"port {port} is in use by another program on this machine; choose another --base-port"
                    ) from None
        return list(range(first, first + count))
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def make_participant(
    place: Place,
    authority: Path,
    *,
    role: str,
    organisation: str,
    broker_url: str,
    database_url: str,
    socket_path: Path,
) -> None:
    """Make a participant's folder, admit it to the data space and migrate its database."""
    enrolment = Enrolment(
        name=place.name,
        organisation=organisation,
        role="ai-provider" if role == "ai-provider" else "data-provider",
        port=place.port,
        database_url=database_url,
        broker_url=broker_url,
        broker_prefix=place.slug,
    )
    now = datetime.now(UTC)
    request = create_participant(place.folder, enrolment, authority / AUTHORITY_FILE, now)
    admit_request(authority, request, place.folder / MEMBERSHIP_FILE, now)
    settings = place.folder / "orchard.toml"
    text = settings.read_text(encoding="utf-8")
    text = text.replace('approval = "manual"', 'approval = "automatic"')
    text = text.replace(
        "require = true",
        f'require = true\n# One fork server serves the whole demo: it holds no data.\nsocket = "{socket_path}"',
    )
    settings.write_text(text, encoding="utf-8")
    migrate(place)


def migrate(place: Place) -> None:
    """Bring the participant's database to this version's schema."""
    upgrade(Settings.load(place.folder).storage.database_url)


def trust_learners_of(place: Place, issuer: str, jwks: Path, sign_in: str, client_id: str) -> None:
    """Name the issuer whose tokens speak for the participant's learners, and where they sign in (a URL)."""
    settings = place.folder / "orchard.toml"
    text = settings.read_text(encoding="utf-8")
    text = text.replace('# issuer = "https://lms.example"', f'issuer = "{issuer}"')
    text = text.replace('# jwks = "lms-keys.json"', f'jwks = "{jwks}"')
    text = text.replace('# client_id = "orchard"', f'client_id = "{client_id}"')
    for name in ("authorize", "token"):
        key = {"authorize": "authorization_endpoint", "token": "token_endpoint"}[name]
        text = text.replace(f'# {key} = "https://lms.example/{name}"', f'{key} = "{sign_in}/{place.slug}/{name}"')
    settings.write_text(text, encoding="utf-8")


def trust_staff_of(place: Place, issuer: str, jwks: Path, sign_in: str, client_id: str) -> None:
    """Name the issuer whose access tokens operate the participant, and where its staff sign in (a URL)."""
    settings = place.folder / "orchard.toml"
    text = settings.read_text(encoding="utf-8")
    realm = f"{sign_in}/{place.slug}-staff"
    lines = {
        "issuer": issuer,
        "jwks": str(jwks),
        "client_id": client_id,
        "authorization_endpoint": f"{realm}/authorize",
        "token_endpoint": f"{realm}/token",
    }
    more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
    settings.write_text(text.replace("[management]\n", f"[management]\n{more}", 1), encoding="utf-8")


def write_dataset(place: Place, name: str, offer: Offer) -> None:
    """Write a dataset file: the source, the terms and the privacy notice, in two languages."""
    (place.folder / "datasets" / f"{name}.toml").write_text(
        dataset_text(place.name, place.slug, offer), encoding="utf-8"
    )


def dataset_text(name: str, slug: str, offer: Offer) -> str:
    """Return a dataset file for the school called ``name``."""
    now = datetime.now(UTC).replace(microsecond=0)
    until = now + timedelta(days=offer.days)
    parameters = ", ".join(f"{key} = {json.dumps(value)}" for key, value in offer.parameters.items())
    return f"""\
title = {json.dumps(f"Learning records of {name}")}
description = "Made public to the data space by schema only; rows stay here."
keywords = ["education", "federated-training"]
view = {json.dumps(str(offer.view))}

[location]
folder = {json.dumps(str(offer.data))}
parameters = {{ {parameters} }}

[policy]
purpose = {json.dumps(offer.purpose)}
valid_from = {now.isoformat().replace("+00:00", "Z")}
valid_until = {until.isoformat().replace("+00:00", "Z")}
cohort_floor = {offer.cohort_floor}

[notice]
recipients = {json.dumps(list(offer.recipients))}
algorithm_class = {json.dumps(offer.algorithm_class)}
dpo = "dpo@{slug}.example"
withdrawal = "Open your consent page and choose Withdraw; it counts from the next round on."

[notice.texts.en]
title = "How we use your answers"
short = "A model learns from your answers. They stay at your school; only sums leave it."
purpose = "train a model that helps teachers see where learners need support"
withdrawal = "Open your consent page and choose Withdraw; it counts from the next round on."

[notice.texts.de]
title = "Wie wir deine Antworten nutzen"
short = "Ein Modell lernt aus deinen Antworten. Sie bleiben an deiner Schule; nur Summen verlassen sie."
purpose = "ein Modell trainieren, das Lehrkräften zeigt, wo Lernende Hilfe brauchen"
withdrawal = "Öffne deine Einwilligungsseite und wähle Widerrufen; es gilt ab der nächsten Runde."
"""


def start_api(place: Place) -> subprocess.Popen[bytes]:
    """Start ``orchard serve``."""
    return start(orchard("serve", str(place.folder)), place.folder / "logs" / "serve.log")


def start_worker(place: Place) -> subprocess.Popen[bytes]:
    """Start ``orchard worker`` on all queues."""
    return start(orchard("worker", str(place.folder)), place.folder / "logs" / "worker.log")


def wait_ready(places: Sequence[Place], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until every API answers that it is ready.

    Raises:
        DemoError: one ended, or took too long.
    """
    deadline = time.monotonic() + READY_SECONDS
    for place, process in zip(places, processes, strict=True):
        client = place.client()
        while True:
            if process.poll() is not None:
                log = place.folder / "logs" / "serve.log"
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise DemoError(f"{place.name} ended at once: {lines[-1] if lines else 'no word'} (see {log})")
            try:
                client.get("/health/ready")
                break
            except OperatorError as error:
                if time.monotonic() > deadline:
                    raise DemoError(f"{place.name} is not ready after {READY_SECONDS:g} s: {error}") from error
                time.sleep(0.05)
        client.close()
