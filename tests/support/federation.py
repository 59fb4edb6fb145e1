"""A federation in one process: real learning nodes, real secure aggregation, real stores and routes; no network, no data.

Around each node stand plain stand-ins for what other rooms give it (contracts, gate, snapshots, sandbox). Calls between
nodes go through each other's real routes, over a wire that may lose, double or refuse them. Time stands still until
nobody has anything to do; then it jumps to when somebody has. Who is hit by a fault depends on the call alone, so that
a schedule can be played again whatever the threads do.
"""

import contextlib
import dataclasses
import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from connector.http.door import Door
from connector.http.learning import learning_problem, learning_router
from connector.http.problems import install_problem_handlers
from connector.identity.errors import UnauthorizedError
from connector.identity.membership import PeerIdentity
from connector.identity.transfers import TransferTokens
from connector.storage.blobs import FolderBlobs
from connector.storage.database import Database, metadata
from connector.storage.learning import SqlLearningStore, WorkBook
from connector.storage.tables_learning import work as work_table
from learning import provide
from learning.errors import LearningError, PeerError, StepFailedError
from learning.jobs import JOB_ENDS, Job, Participation
from learning.node import MemberFacts, Node
from learning.ports import Reply
from learning.recruit import register_plan, start_job
from learning.tasks import run_task
from policies.canonical import canonical_json
from policies.signing import Signer
from tests.support.federation_rooms import (
    COLLECTOR,
    FEATURES,
    PURPOSE,
    FakeContracts,
    FakeGate,
    FakeSnapshots,
    FakeTrainer,
    transfer_state,
)
from tests.support.loop import LoopClient

# Built once: building it costs more than running it.
_NEXT_RING = select(func.min(work_table.c.publish_at))
START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
Fate = Callable[[str, str, str, int], str]


class Crash(BaseException):
    """The worker dies here: nothing after this line happens, and no exception handler sees it."""


class Clock:
    """Aware UTC time that moves only when told."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def school(number: int) -> str:
    """Return the id of the school with this number."""
    return f"did:web:school-{number}.example"


def plan_payload(**changes: Any) -> dict[str, Any]:
    """Return a small plan: logistic regression, two rounds, three seats."""
    value: dict[str, Any] = {
        "title": "A small plan",
        "purpose": PURPOSE,
        "algorithm_class": "https://w3id.org/orchard#AtRiskModel",
        "shape": "outcomes",
        "features": FEATURES,
        "model": {"kind": "logistic-regression", "inputs": 4},
        "seed": 7,
        "rounds": 2,
        "local": {"optimiser": "sgd", "learning_rate": 0.1, "batch_size": 8, "epochs": 1},
        "evaluation": {"baseline": False},
        "cohort_floor": 3,
        "recruit_seconds": 600.0,
        "round_seconds": 60.0,
    }
    return value | changes


@dataclasses.dataclass(repr=False)
class Federation:
    """The nodes, the wire between them, and what the other rooms would know."""

    folder: Path
    clock: Clock = dataclasses.field(default_factory=Clock)
    members: dict[str, "Member"] = dataclasses.field(default_factory=dict)
    fate: Fate = lambda _sender, _receiver, _call, _time: "deliver"
    calls: list[tuple[str, str, str, int]] = dataclasses.field(default_factory=list)
    seen: Counter[tuple[str, str, str]] = dataclasses.field(default_factory=Counter)
    transfers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def __repr__(self) -> str:
        return "Federation()"

    def join(self, name: str, *, subjects: int = 5, **changes: Any) -> "Member":
        """Add a participant with so many consenting learners."""
        self.members[name] = open_member(self, name, subjects, changes)
        return self.members[name]

    @property
    def collector(self) -> "Member":
        """The AI provider."""
        return self.members[COLLECTOR]

    def schools(self) -> list["Member"]:
        """Return the data providers."""
        return [member for name, member in self.members.items() if name != COLLECTOR]

    def start(self, **plan: Any) -> str:
        """Register a plan and start a job with every school; return the job's id."""
        own = register_plan(self.collector.node, plan_payload(**plan))
        agreements = [f"urn:agreement:{member.name}" for member in self.schools()]
        return start_job(self.collector.node, own.plan_digest, agreements).job_id

    def job(self, job_id: str) -> Job:
        """Return the job as its collector knows it."""
        found = self.collector.node.store.run("test", lambda records: records.get(Job, job_id))
        assert found is not None
        return found

    def settle(self, seconds: float = 3600.0, *, until: Callable[[], bool] = lambda: False) -> None:
        """Do all work, jumping to the next due time, until nobody has any, ``until`` says so, or time is up."""
        end = self.clock() + timedelta(seconds=seconds)
        while not until():
            if any([member.do_one() for member in list(self.members.values())]):  # noqa: C419 - all get a turn
                continue
            due = {name: at for name, member in self.members.items() if (at := member.next_ring()) is not None}
            first = datetime.fromtimestamp(min(due.values()), UTC) if due else None
            if first is None or first > end:
                return
            self.clock.time = max(self.clock(), first) + timedelta(milliseconds=1)
            for name, at in due.items():
                if at <= self.clock().timestamp():
                    self.members[name].sweep()

    def finish(self, job_id: str, seconds: float = 3600.0) -> Job:
        """Do all work until the job has ended and everybody has heard; return the job."""
        self.settle(seconds, until=lambda: self.job(job_id).state in JOB_ENDS)
        self.settle(300.0)
        return self.job(job_id)


@dataclasses.dataclass(repr=False)
class Member:
    """One participant's node with its work book; ``down`` keeps its API and its worker from answering.

    ``keeps_model`` is why its policy does not let a model leave a job.
    """

    federation: Federation
    name: str
    node: Node
    book: WorkBook
    database: Database
    app: FastAPI
    client: TestClient
    tokens: TransferTokens
    subjects: set[str]
    used: list[tuple[int, frozenset[str]]] = dataclasses.field(default_factory=list)
    rings: deque[tuple[str, str]] = dataclasses.field(default_factory=deque)
    errors: list[tuple[str, Exception]] = dataclasses.field(default_factory=list)
    fails: StepFailedError | None = None
    keeps_model: str = ""
    down: bool = False
    crashes: int = 0

    def __repr__(self) -> str:
        return f"Member({self.name})"

    def do_one(self) -> bool:
        """Do the oldest piece of work; returns whether there was any."""
        if self.down or not self.rings:
            return False
        task, key = self.rings.popleft()
        try:
            run_task(self.node, self.book, _held, self._ring, self._report, self.name, task, key)
        except Crash:
            self.crashes += 1
        return True

    def sweep(self) -> None:
        """Ring for what is due."""
        if not self.down:
            self.rings.extend(self.book.sweep(self.node.now(), 3.0))

    def next_ring(self) -> float | None:
        """Return when the sweep will next find something, in Unix seconds."""
        if self.down:
            return None
        with self.database.reading() as connection:
            return connection.scalar(_NEXT_RING)

    def part(self, job_id: str) -> Participation:
        """Return this provider's part in a job."""
        return provide.part_of(self.node, job_id)

    def _ring(self, task: str, key: str) -> None:
        self.rings.append((task, key))

    def _report(self, task: str, _key: str, error: Exception) -> None:
        self.errors.append((task, error))


def open_member(federation: Federation, name: str, subjects: int, changes: Mapping[str, Any]) -> Member:
    """Return a participant with a database, blobs and keys of its own."""
    folder = federation.folder / hashlib.sha256(name.encode()).hexdigest()[:8]
    folder.mkdir()
    database = Database(f"sqlite:///{folder / 'orchard.sqlite'}")
    metadata.create_all(database.engine)
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"key of {name}".encode()).digest())
    signer = Signer(kid=name, private_key=key)
    made: list[Member] = []
    ids = (f"urn:uuid:{number:08d}-{name[8:12]}" for number in range(10**6))
    store = SqlLearningStore(database, lambda task, work: made[0].rings.append((task, work)), federation.clock)
    node = Node(
        participant_id=name,
        organisation=name,
        signer=signer,
        membership=name,
        secret=hashlib.sha256(f"secret of {name}".encode()).digest(),
        check_membership=lambda credential: _facts(federation, credential),
        store=store,
        blobs=FolderBlobs(folder / "blobs"),
        peers=_Line(federation, name),
        contracts=FakeContracts(federation, name),
        gate=FakeGate(made),
        snapshots=FakeSnapshots(made),
        trainer=FakeTrainer(made),
        now=federation.clock,
        new_id=lambda: next(ids),
        **changes,
    )
    tokens = TransferTokens(signer=signer, now=federation.clock)
    app = FastAPI()
    app.state.peers = _Identities(federation)
    router = learning_router(node, tokens, lambda pid: transfer_state(federation, pid))
    app.router.routes.extend(router.routes)
    app.add_middleware(Door, routes=router.routes)
    install_problem_handlers(app)
    app.add_exception_handler(LearningError, learning_problem)
    client = LoopClient(app, base_url="http://node.example", raise_server_exceptions=True)
    # The first request builds the routes' forms, and does not expect a second one beside it.
    client.post("/learning/tokens")
    made.append(
        Member(
            federation=federation,
            name=name,
            node=node,
            book=WorkBook(database),
            database=database,
            app=app,
            client=client,
            tokens=tokens,
            subjects={f"learner-{number}" for number in range(subjects)},
        )
    )
    return made[0]


@contextlib.contextmanager
def open_federation(folder: Path, schools: int, **subjects: int) -> Iterator[Federation]:
    """Give a federation of a collector and so many schools; ``school_3=0`` sets a school's consenting learners."""
    federation = Federation(folder=folder)
    federation.join(COLLECTOR)
    for number in range(1, schools + 1):
        federation.join(school(number), subjects=subjects.get(f"school_{number}", 4 + number))
    yield federation
    for member in federation.members.values():
        member.database.close()


@contextlib.contextmanager
def _held(_lease: Any) -> Iterator[None]:
    yield


def _facts(federation: Federation, name: str) -> MemberFacts:
    member = federation.members[name]
    return MemberFacts(
        participant_id=name,
        name=name,
        organisation=name,
        address="http://node.example",
        public_key=member.node.signer.public_key,
    )


@dataclasses.dataclass
class _Identities:
    """Takes ``Bearer <participant id>`` at its word; identity has tests of its own."""

    federation: Federation

    def verify(self, header: str | None) -> PeerIdentity:
        name = (header or "").removeprefix("Bearer ")
        if name not in self.federation.members:
            raise UnauthorizedError("token-missing", "a request token is needed")
        facts = _facts(self.federation, name)
        return PeerIdentity(**dataclasses.asdict(facts), roles=())


@dataclasses.dataclass(repr=False)
class _Line:
    """One node's end of the wire (port: ``learning.ports.Peers``)."""

    federation: Federation
    sender: str

    def call(
        self,
        participant_id: str,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Call another node, if fate and that node allow it."""
        what = f"{method} {path.rsplit('/', 1)[-1]}"
        with self.federation.lock:
            self.federation.seen[self.sender, participant_id, path] += 1
            time = self.federation.seen[self.sender, participant_id, path]
        fate = self.federation.fate(self.sender, participant_id, what, time)
        receiver = self.federation.members.get(participant_id)
        if fate == "crash":
            raise Crash
        if receiver is None or receiver.down or fate == "drop":
            raise PeerError(f"{participant_id} does not answer")
        sent = {"authorization": f"Bearer {self.sender}", **(headers or {})}
        if token is not None:
            sent["orchard-transfer"] = token
        body = canonical_json(json) if json is not None else content
        if json is not None:
            sent["content-type"] = "application/json"
        for _ in range(2 if fate == "double" else 1):
            answer = receiver.client.request(method, f"/learning{path}", content=body, headers=sent)
            with self.federation.lock:
                self.federation.calls.append((self.sender, participant_id, what, answer.status_code))
        if fate == "lose":
            raise PeerError(f"{participant_id} did not answer in time")
        if fate == "crash-after":
            raise Crash
        found = answer.json() if answer.content else {}
        return Reply(status=answer.status_code, body=found if isinstance(found, dict) else {})

    def name(self, participant_id: str) -> str:
        """Return a short name."""
        return participant_id.removeprefix("did:web:").removesuffix(".example")
