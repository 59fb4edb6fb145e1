"""One data space of real processes, ready to run plans over the same agreements again and again."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from connector.demo import conduct, plans
from connector.demo.stage import Running, Stage, make_stage, publish, start_stage
from connector.foundation import utc_now
from connector.peers.operator import OperatorClient
from connector.settings import Settings
from connector.sources.opened import open_source
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location
from connector.storage.database import Database
from connector.storage.learning import SqlLearningStore
from learning.rounds import Round, Step
from tests.benchmarks.job_data import write_data

R = TypeVar("R", Round, Step)
_HIDDEN = [256, 128]


class Silent:
    """A narrator for programs."""

    def chapter(self, title: str) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def round(self, number: int, total: int, text: str) -> None:
        """Say nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobRun:
    """What a job left behind: its rounds in order, each provider's steps, CPU seconds a round over all processes."""

    rounds: Sequence[Round]
    steps: Sequence[Sequence[Step]]
    cpu_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """A running data space whose learners have all consented."""

    stage: Stage
    running: Running
    ai: OperatorClient
    contracted: conduct.Contracted

    def plan(self, *, steps: int, rounds: int) -> dict[str, Any]:
        """Return a plan's payload: an MLP, ``steps`` minibatches a round at each provider, no baseline."""
        properties = [conduct.plain(dataset) for dataset in self.contracted.datasets.values()]
        options = plans.PlanOptions(rounds=rounds, baseline=False, min_contributors=3)
        payload = plans.build_plan(self.stage.recipe, properties, options)
        local = {"optimiser": "sgd", "learning_rate": 0.05, "batch_size": 32, "steps": steps}
        return {**payload, "model": {**payload["model"], "hidden": _HIDDEN}, "local": local}

    def run(self, payload: Mapping[str, Any], *, warm: int) -> JobRun:
        """Run a plan as a job to its end; the CPU of its first ``warm`` rounds (1 or more) is not counted."""
        digest = str(self.ai.post("/management/plans", dict(payload))["plan_digest"])
        agreements = list(self.contracted.agreements.values())
        last, marks = payload["rounds"], dict[int, float]()

        def mark(number: int) -> None:
            if number in (warm, last):
                marks[number] = self._cpu()

        job_id = conduct.start(self.ai, digest, agreements)
        job = conduct.follow(self.ai, job_id, last, Silent(), mark)
        if job["state"] != "COMPLETED":
            raise RuntimeError(f"the job ended {job['state']}: {job['reason']}")
        spent = (marks[last] - marks[warm]) / (last - warm)
        rounds = read_records(self.stage.ai.folder, Round, job_id)
        steps = [read_records(school.place.folder, Step, job_id) for school in self.stage.schools]
        return JobRun(rounds=rounds, steps=steps, cpu_seconds=spent)

    def write_bare(self, folder: Path, payload: Mapping[str, Any]) -> Path:
        """Write a plan and each provider's snapshot for ``bare_rounds``."""
        folder.mkdir(exist_ok=True)
        (folder / "plan.json").write_text(json.dumps(payload), encoding="utf-8")
        for school in self.stage.schools:
            file = folder / f"{school.place.slug}.safetensors"
            if not file.exists():
                source = open_source(
                    self.stage.view, Location(folder=self.stage.data, parameters=school.entry.parameters)
                )
                build_snapshot(source, None, lambda subject: subject, file)
        return folder

    def _cpu(self) -> float:
        """Return the CPU seconds of every process of the data space so far, ended steps included."""
        marker = str(self.stage.root).encode()
        total = 0.0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if marker in (entry / "cmdline").read_bytes():
                        fields = (entry / "stat").read_text().rpartition(")")[2].split()
                        total += sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        return total


@contextlib.contextmanager
def data_space(root: Path) -> Iterator[Space]:
    """Start one AI provider and three schools below ``root``, contracts concluded and consents given; stop them."""
    data = write_data(root / "data")
    stage = make_stage(root / "space", data=data, count=None, seed=7, base_port=None, database_url=None, parameters={})
    publish(stage)
    running = start_stage(stage)
    try:
        ai = stage.ai.client()
        ids = conduct.meet(stage, ai, Silent())
        contracted = conduct.contract(stage, ai, ids, Silent())
        desks = conduct.open_desks(stage, contracted)
        for school in stage.schools:
            conduct.consent(school, *desks[school.place.slug], Silent(), 0.0)
        yield Space(stage=stage, running=running, ai=ai, contracted=contracted)
    finally:
        running.stop()


def read_records(folder: Path, kind: type[R], job_id: str) -> list[R]:
    """Return a participant's records of one kind of a job, in key order."""
    database = Database(Settings.load(folder).storage.database_url)
    try:
        store = SqlLearningStore(database, lambda _task, _key: None, utc_now)
        return store.run("bench.read", lambda records: records.select(kind, job_id))
    finally:
        database.close()
