"""Two whole connectors' contract rooms in one process, talking through an in-memory wire that can lose messages.

Each side has its own database, the real routes and the real machine; only the transport is in memory, and time stands
still until a test moves it. Work is done when the test says so (``settle``), so that every order can be tried.
"""

import dataclasses
import itertools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.testclient import TestClient

from connector.http.datasets import datasets_router
from connector.http.dsp import dsp_router, version_router
from connector.http.negotiations import negotiations_router
from connector.http.problems import install_problem_handlers
from connector.http.transfers import transfers_router
from connector.identity.errors import UnauthorizedError
from connector.identity.membership import PeerIdentity
from connector.identity.operators import OperatorIdentity
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from contracts.behaviour import AutomaticBehaviour, AutomaticTransfers
from contracts.delivery import RetryRule
from contracts.errors import PeerUnavailableError
from contracts.messages import DataAddress, Offer
from contracts.ports import Behaviour, Doorbell, Peer, PeerAnswer, TransferBehaviour
from contracts.processes import AgreementRecord, Counterparty, Dataset, Kind, OutboxRow, Transfer
from contracts.service import ContractService, OwnSide, open_contracts
from policies.gate import PolicyGate
from policies.signing import Signer, new_signer
from tests.support.loop import LoopClient

RESEARCH = "https://w3id.org/dpv#AcademicResearch"
MARKETING = "https://w3id.org/dpv#Marketing"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Aware UTC time that moves a microsecond per look, and otherwise only when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


class Bell:
    """A doorbell that keeps the work until the test does it."""

    def __init__(self) -> None:
        self.work: deque[OutboxRow | tuple[Kind, str]] = deque()
        self.lease: str | None = "bell"

    def row(self, row: OutboxRow) -> None:
        """Keep a row."""
        self.work.append(row)

    def act(self, kind: Kind, pid: str) -> None:
        """Keep a question."""
        self.work.append((kind, pid))

    def later(self, at: datetime) -> None:
        """The sweep finds it."""


@dataclasses.dataclass(repr=False)
class Wire:
    """Carries requests between sides. ``fate`` may lose the request (``drop``) or its answer (``lose``), or do ``twice``."""

    sides: dict[str, "Side"] = dataclasses.field(default_factory=dict)
    fate: Callable[[str, str, str], str] = lambda _method, _url, _body: "deliver"
    log: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)
    # What happens between a request's arrival and its answer's.
    then: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return "Wire()"

    def calls(self, sender: str) -> "Line":
        """Return the port for one side."""
        return Line(self, sender)


@dataclasses.dataclass(repr=False)
class Line:
    """One side's end of the wire (port: ``contracts.ports.PeerCalls``)."""

    wire: Wire
    sender: str

    def call(
        self,
        method: str,
        url: str,
        *,
        audience: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> PeerAnswer:
        """See the port."""
        parts = urlsplit(url)
        side = next((s for s in self.wire.sides.values() if urlsplit(s.address).netloc == parts.netloc), None)
        fate = self.wire.fate(method, url, (body or b"").decode())
        if side is None or fate == "drop":
            raise PeerUnavailableError("no such host")
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        sent = {"Authorization": f"Bearer {self.sender}", **(headers or {})}
        for _ in range(2 if fate == "twice" else 1):
            answer = side.client.request(method, path, content=body, headers=sent)
            self.wire.log.append((method, parts.path, answer.status_code))
        if self.wire.then is not None:
            self.wire.then()
        if fate == "lose":
            raise PeerUnavailableError("no answer")
        found = {name.lower(): value for name, value in answer.headers.items()}
        return PeerAnswer(status=answer.status_code, body=answer.content, headers=found)


@dataclasses.dataclass
class FakeIdentities:
    """Takes ``Bearer <participant id>`` at its word; identity has tests of its own."""

    wire: Wire

    def verify(self, header: str | None) -> PeerIdentity:
        """Return the caller."""
        name = (header or "").removeprefix("Bearer ")
        if name not in self.wire.sides:
            raise UnauthorizedError("token-missing", "a request token is needed")
        side = self.wire.sides[name]
        return PeerIdentity(
            participant_id=name,
            name=name,
            organisation=name,
            address=side.address,
            public_key=side.signer.public_key,
            roles=("ai-provider",),
        )


@dataclasses.dataclass
class _Directory:
    """Knows everybody on the wire (port: ``contracts.ports.PeerDirectory``)."""

    wire: Wire

    def find(self, participant_id: str) -> Peer | None:
        """See the port."""
        side = self.wire.sides.get(participant_id)
        return side.peer if side else None


class _Operators:
    """Takes ``Bearer operator`` for an operator who may read and write."""

    def verify(self, header: str | None) -> OperatorIdentity:
        """Return the operator."""
        if header != "Bearer operator":
            raise UnauthorizedError("token-missing", "an operator's token is needed")
        return OperatorIdentity(name="operator", scopes=frozenset({"read", "write"}))


@dataclasses.dataclass(repr=False)
class Side:
    """One participant's contracts room."""

    id: str
    address: str
    service: ContractService
    store: ContractStore
    bell: Bell
    clock: Any
    signer: Signer
    app: FastAPI
    client: TestClient
    heard: list[tuple[str, str]]

    def __repr__(self) -> str:
        return f"Side({self.id})"

    @property
    def peer(self) -> Peer:
        """How others know this side."""
        return Peer(participant_id=self.id, dsp_url=self.service.participant.dsp_url)

    @property
    def counterparty(self) -> Counterparty:
        """How others address this side."""
        return Counterparty(participant_id=self.id, address=self.service.participant.dsp_url)

    def do_one(self) -> bool:
        """Do the oldest piece of work; returns whether there was any."""
        if not self.bell.work:
            return False
        work = self.bell.work.popleft()
        if isinstance(work, OutboxRow):
            following = self.service.delivery.attempt(work)
            if following is not None:
                self.bell.row(following)
        else:
            self.service.act(*work)
        return True

    def sweep(self) -> None:
        """Look for what is due."""
        for row in self.service.delivery.lease_due(100):
            self.bell.row(row)
        for due in self.service.delivery.due_behaviours(100):
            self.bell.act(*due)


def open_side(
    wire: Wire,
    database: Database,
    name: str,
    clock: Callable[[], datetime],
    *,
    behaviour: Behaviour | None = None,
    transfer_behaviour: TransferBehaviour | None = None,
    retry: RetryRule | None = None,
    address: str | None = None,
    page_size: int = 100,
    doorbell: Doorbell | None = None,
) -> Side:
    """Return a participant ``did:web:NAME.example`` over a migrated database, connected to the wire."""
    participant = f"did:web:{name}.example"
    address = address or f"http://{name}.example"
    heard: list[tuple[str, str]] = []
    bell, signer, store = Bell(), new_signer(participant + "#key"), ContractStore(database)
    numbers, lock = itertools.count(1), threading.Lock()

    def fresh() -> str:
        with lock:
            return f"urn:uuid:00000000-0000-4000-8000-{name[:1].encode().hex()}{next(numbers):010d}"

    def started(_agreement: AgreementRecord, transfer: Transfer) -> DataAddress:
        return DataAddress(
            endpoint_type="https://w3id.org/orchard/FederatedTraining",
            endpoint=f"{address}/learning",
            properties=(("authorization", f"token-for-{transfer.peer_pid}"),),
        )

    service = open_contracts(
        store=store,
        gate=PolicyGate(now=clock),
        participant=OwnSide(id=participant, dsp_url=f"{address}/dsp/2025-1", roles=("ai-provider",)),
        signer=signer,
        calls=wire.calls(participant),
        doorbell=doorbell or bell,
        behaviour=behaviour or AutomaticBehaviour(),
        transfer_behaviour=transfer_behaviour
        or AutomaticTransfers(
            start_address=started,
            on_transfer_state=lambda _agreement, transfer: heard.append((transfer.pid, transfer.state.value)),
        ),
        clock=clock,
        ids=fresh,
        retry=retry,
        page_size=page_size,
    )
    app = FastAPI()
    app.state.peers = FakeIdentities(wire)
    app.include_router(dsp_router(service))
    app.include_router(version_router())
    app.include_router(datasets_router(service, _Directory(wire)))
    app.include_router(negotiations_router(service, _Directory(wire)))
    app.include_router(transfers_router(service))
    app.state.operators = _Operators()
    install_problem_handlers(app)
    side = Side(
        id=participant,
        address=address,
        service=service,
        store=store,
        bell=bell,
        clock=clock,
        signer=signer,
        app=app,
        client=LoopClient(app, base_url=address, raise_server_exceptions=True),
        heard=heard,
    )
    wire.sides[participant] = side
    return side


def settle(*sides: Side, seconds: float = 0.0, step: float = 5.0) -> None:
    """Do all work; with ``seconds``, let that much time pass and sweep up what falls due on the way."""
    _drain(sides)
    passed = 0.0
    while passed < seconds:
        for clock in {id(side.clock): side.clock for side in sides}.values():
            clock.advance(step)
        passed += step
        for side in sides:
            side.sweep()
        _drain(sides)


def _drain(sides: tuple[Side, ...]) -> None:
    for _ in range(10_000):
        if not any([side.do_one() for side in sides]):  # noqa: C419 - every side must have its turn
            return
    raise AssertionError("the two sides never come to rest")


def rules(purpose: str = RESEARCH, **more: Any) -> dict[str, list[dict[str, Any]]]:
    """Return rules that allow one purpose."""
    constraint = {"leftOperand": "purpose", "operator": "eq", "rightOperand": purpose}
    return {"permission": [{"action": "use", "constraint": [constraint, *more.get("constraints", [])]}]}


def dataset(name: str = "algebra", purpose: str = RESEARCH, **more: Any) -> Dataset:
    """Return a dataset with an offer for one purpose."""
    found = f"urn:dataset:{name}"
    return Dataset(
        id=found,
        title=f"Responses in {name}",
        description="Answers of learners to items",
        keywords=("knowledge tracing", name),
        formats=more.get("formats", ("FederatedTraining",)),
        properties={"viewDigest": "ab" * 32},
        offer=Offer(id=f"urn:offer:{name}", target=found, rules=rules(purpose)),
    )


def asking(published: Dataset, **changes: Any) -> Offer:
    """Return the published offer as a consumer asks for it, with changes."""
    return dataclasses.replace(published.offer, **{"target": published.id, **changes})
