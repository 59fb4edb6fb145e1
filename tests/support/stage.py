"""A small data space of real processes, ready to run plans over the same agreements again and again."""

import contextlib
import dataclasses
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from connector.demo import conduct, participants, plans
from connector.demo.participants import Place
from connector.demo.processes import start
from connector.demo.stage import Running, School, Stage, make_stage, publish, start_broker
from connector.foundation import utc_now
from connector.peers.operator import OperatorClient
from connector.settings import Settings
from connector.storage.database import Database
from connector.storage.learning import SqlLearningStore
from learning.rounds import ClearUpload, Round, RoundState, Step
from tests.support.relay import Relay

R = TypeVar("R", Round, Step, ClearUpload)
Confined = Callable[[Stage, Place, str, list[str]], list[str]]
"""From stage, participant, ``serve`` or ``worker`` and the plain command to the command that is run."""


class Silent:
    """A narrator for programs."""

    def chapter(self, title: str) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def round(self, number: int, total: int, text: str) -> None:
        """Say nothing."""


def as_it_is(_stage: Stage, _place: Place, _kind: str, plain: list[str]) -> list[str]:
    """Run a participant's commands as an operator types them."""
    return plain


@dataclasses.dataclass(kw_only=True)
class Space:
    """A running data space: contracts are concluded, learners have answered.

    Attributes:
        stage: folders, participants, data.
        running: the processes.
        relays: slug -> the relay in front of a participant; empty without relays.
        ai: the AI provider's operator.
        contracted: agreements and datasets by slug.
        consented: what each school's learners said, by slug.
    """

    stage: Stage
    running: Running
    relays: Mapping[str, Relay]
    ai: OperatorClient
    contracted: conduct.Contracted
    consented: dict[str, conduct.Consented]
    confined: Confined

    def plan(self, options: plans.PlanOptions = plans.PlanOptions(), **changes: Any) -> dict[str, Any]:
        """Return the recipe's plan over every school, with some fields changed."""
        properties = [conduct.plain(dataset) for dataset in self.contracted.datasets.values()]
        return {**plans.build_plan(self.stage.recipe, properties, options), **changes}

    def begin(self, payload: Mapping[str, Any]) -> str:
        """Register a plan and start a job over every agreement; return its id."""
        digest = str(self.ai.post("/management/plans", dict(payload))["plan_digest"])
        return conduct.start(self.ai, digest, list(self.contracted.agreements.values()))

    def end(self, job_id: str, seconds: float = 120.0) -> dict[str, Any]:
        """Return the job once it is COMPLETED."""
        return self.when(job_id, lambda job: job["state"] == "COMPLETED", seconds)

    def when(self, job_id: str, wanted: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
        """Return the job as soon as it is as wanted; fail when it ends otherwise or takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            job: dict[str, Any] = self.ai.get(f"/management/jobs/{job_id}")
            if wanted(job):
                return job
            assert job["state"] not in ("FAILED", "CANCELLED", "COMPLETED"), (job["state"], job["reason"])
            assert time.monotonic() < deadline, (job["state"], job["timeline"][-3:])
            time.sleep(0.2)

    def model(self, job_id: str) -> bytes:
        """Return the final weights of a completed job."""
        return self.ai.get_bytes(f"/management/jobs/{job_id}/model")

    def run(self, payload: Mapping[str, Any]) -> tuple[str, bytes]:
        """Run a plan to its end; return the job's id and its final weights."""
        job_id = self.begin(payload)
        self.end(job_id)
        return job_id, self.model(job_id)

    def card(self, school: School, job_id: str) -> dict[str, Any]:
        """Return a provider's own card of a job."""
        with contextlib.closing(school.place.client()) as client:
            found: dict[str, Any] = client.get(f"/management/participations/{job_id}")
        return found

    def under_way(self, job_id: str, number: int) -> Round | None:
        """Return a round of a job while its contributors train, read from the AI provider's database."""
        found = [row for row in read_records(self.stage.ai, Round, job_id) if row.round == number]
        return found[-1] if found and found[-1].state is RoundState.TRAINING else None

    def start_api(self, place: Place) -> None:
        """Start a participant's API with the command it had before, and wait until it is ready."""
        self.running.apis[place.slug] = _launch(self.stage, place, "serve", self.confined)
        participants.wait_ready([place], [self.running.apis[place.slug]])

    def start_worker(self, place: Place) -> None:
        """Start a participant's worker with the command it had before."""
        self.running.workers[place.slug] = _launch(self.stage, place, "worker", self.confined)

    def start_broker(self) -> None:
        """Start the broker with the command it had before."""
        self.running.broker = start_broker(self.stage.root / "broker", self.stage.broker_port)


@contextlib.contextmanager
def space(
    root: Path,
    *,
    data: Path | None = None,
    count: int | None = None,
    relayed: bool = False,
    confined: Confined = as_it_is,
    refuse_share: float = 0.1,
    base_port: int | None = None,
) -> Iterator[Space]:
    """Make and start a data space below ``root``, conclude the contracts and let the learners answer; stop it all."""
    stage = make_stage(root, data=data, count=count, seed=7, base_port=base_port, database_url=None, parameters={})
    relays = {place.slug: _relay(place) for place in stage.places} if relayed else {}
    running = Running(broker=start_broker(stage.root / "broker", stage.broker_port))
    try:
        for place in stage.places:
            running.apis[place.slug] = _launch(stage, place, "serve", confined)
        publish(stage)
        participants.wait_ready(stage.places, [running.apis[place.slug] for place in stage.places])
        for place in stage.places:
            running.workers[place.slug] = _launch(stage, place, "worker", confined)
        with contextlib.closing(stage.ai.client()) as ai, contextlib.ExitStack() as closing:
            contracted = conduct.contract(stage, ai, conduct.meet(stage, ai, Silent()), Silent())
            desks = conduct.open_desks(stage, contracted)
            for desk, _ in desks.values():
                closing.callback(desk.client.close)
            consented = {
                school.place.slug: conduct.consent(school, *desks[school.place.slug], Silent(), refuse_share)
                for school in stage.schools
            }
            yield Space(
                stage=stage,
                running=running,
                relays=relays,
                ai=ai,
                contracted=contracted,
                consented=consented,
                confined=confined,
            )
    finally:
        running.stop()
        for relay in relays.values():
            relay.close()


def source(stage: Stage, school: School) -> Path:
    """Return the file that a made-up school's rows lie in."""
    return stage.data / school.entry.name / "statements.jsonl"


def read_records(place: Place, kind: type[R], job_id: str) -> list[R]:
    """Return a participant's records of one kind of a job, in key order."""
    database = Database(Settings.load(place.folder).storage.database_url)
    try:
        store = SqlLearningStore(database, lambda _task, _key: None, utc_now)
        return store.run("test.read", lambda records: records.select(kind, job_id))
    finally:
        database.close()


def blobs(place: Place) -> dict[str, bytes]:
    """Return every blob of a participant by its digest."""
    return {
        path.name.replace("-", ":"): path.read_bytes()
        for path in Settings.load(place.folder).storage.blobs.glob("??/*")
    }


def kill(process: subprocess.Popen[bytes]) -> None:
    """Send SIGKILL to one process, and to none of its children."""
    process.kill()
    process.wait()


def _launch(stage: Stage, place: Place, kind: str, confined: Confined) -> subprocess.Popen[bytes]:
    plain: Sequence[str] = participants.orchard(kind, str(place.folder))
    return start(confined(stage, place, kind, list(plain)), place.folder / "logs" / f"{kind}.log")


def _relay(place: Place) -> Relay:
    """Let the participant listen on another port than the one its public URL names, behind a relay."""
    (port,) = participants.free_ports(1, None)
    settings = place.folder / "orchard.toml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace(f"\nport = {place.port}\n", f"\nport = {port}\n"), encoding="utf-8")
    return Relay(place.port, port)
