"""The whole demo: stage, contracts, consents, training, result."""

import dataclasses
import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connector.datasets.folder import DatasetFolder
from connector.demo import conduct, learners, plans
from connector.demo.central import central_reference
from connector.demo.conduct import Consented
from connector.demo.participants import DemoError
from connector.demo.stage import Running, School, Stage, make_stage, publish, start_stage
from connector.peers.operator import OperatorClient
from connector.reporting.build_output import Output, check_destination, write_output
from connector.reporting.live import Narrator
from connector.reporting.observations import CardStep, Event, Observations, ProviderCard, Reference, band
from connector.settings import Settings
from learning.plans import Aggregation

_POOLED = "The demo pooled its own made-up data to print the central reference; no real data space could."


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the command line of ``orchard demo`` says."""

    out: Path
    root: Path
    data: Path | None = None
    providers: int | None = None
    rounds: int | None = None
    strategy: plans.Strategy | None = None
    aggregation: Aggregation = dataclasses.field(default_factory=Aggregation)
    seed: int = 7
    base_port: int | None = None
    database_url: str | None = None
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    refuse_share: float = 0.1
    min_contributors: int | None = None
    granularity: plans.Granularity = "provider"
    learners: int | None = None
    finetune: bool = False
    central: bool = False
    withdraw: bool = True
    recruit_seconds: float = 3600.0
    small_rows: int = 5000
    force: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a finished demo has to show."""

    output: Output
    report: Mapping[str, Any]
    observations: Observations
    job: Mapping[str, Any]
    stage: Stage


def prepare(options: DemoOptions, narrator: Narrator) -> Stage:
    """Make the data space and publish each school's dataset; nothing runs yet."""
    check_destination(options.out, force=options.force)
    narrator.chapter("A data space")
    stage = make_stage(
        options.root,
        data=options.data,
        count=options.providers,
        seed=options.seed,
        base_port=options.base_port,
        database_url=options.database_url,
        parameters=options.parameters,
        learners_in_all=options.learners,
    )
    publish(stage)
    narrator.say(f"one AI provider and {len(stage.schools)} data providers below {stage.root}")
    narrator.say(f"each published a dataset under the feature view '{stage.view.name}'")
    return stage


def play(options: DemoOptions, stage: Stage, narrator: Narrator) -> Shown:
    """Negotiate, ask for consent, train, and write the result; the stage must be running."""
    ai = stage.ai.client()
    try:
        return _play(options, stage, ai, narrator)
    finally:
        ai.close()


def _play(options: DemoOptions, stage: Stage, ai: OperatorClient, narrator: Narrator) -> Shown:
    narrator.chapter("Contracts (Dataspace Protocol 2025-1)")
    ids = conduct.meet(stage, ai, narrator)
    contracted = conduct.contract(stage, ai, ids, narrator)

    narrator.chapter("A plan, and the wait for consent")
    plan = conduct.propose(ai, stage, contracted, _plan_options(options, stage))
    agreements = [contracted.agreements[school.place.slug] for school in stage.schools]
    job_id = conduct.start(ai, plan, agreements)
    narrator.say(f"plan {plan[:12]} signed, job {job_id} started before anybody consented: it waits")
    desks = conduct.open_desks(stage, contracted)
    consented = {
        school.place.slug: conduct.consent(school, *desks[school.place.slug], narrator, options.refuse_share)
        for school in stage.schools
    }

    narrator.chapter("Training where the data lives")
    leaver = _Leaver(stage.schools[0], consented[stage.schools[0].place.slug], narrator, play=options.withdraw)
    payload = ai.get(f"/management/plans/{plan}")["document"]["payload"]
    job = conduct.follow(ai, job_id, payload["rounds"], narrator, leaver.after_round)
    if job["state"] != "COMPLETED":
        raise DemoError(f"the job ended {job['state']}: {job['reason']}")

    narrator.chapter("Result")
    report = ai.get(f"/management/jobs/{job_id}/report")
    weights = ai.get_bytes(f"/management/jobs/{job_id}/model")
    observations = _observations(options, stage, job_id, payload, consented, leaver)
    view = tomllib.loads(stage.view_file.read_text(encoding="utf-8"))
    output = write_output(options.out, report, weights, payload["model"], view, observations, force=options.force)
    return Shown(output=output, report=report, observations=observations, job=job, stage=stage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """What somebody who withdrew holds: the signed receipt, and the school's public document to check it with."""

    receipt: Path
    did: Path


class _Leaver:
    """One learner who withdraws after round 2, and keeps the receipt."""

    def __init__(self, school: School, consented: Consented, narrator: Narrator, *, play: bool) -> None:
        self._school = school
        self._consented = consented
        self._narrator = narrator
        self._wait = play
        self.event: Event | None = None
        self.proof: Proof | None = None

    def after_round(self, number: int) -> None:
        if not self._wait or number < conduct.WITHDRAW_AFTER:
            return
        self._wait = False
        who = learners.choose_leaver(self._consented.played)
        gone = self._consented.desk.withdraw(self._consented.asked, who)
        text = (
            f"a learner of {self._school.place.name} withdrew after round {number}; "
            f"their rows are not read in any round that opens from now on"
        )
        self._narrator.say(text)
        self.proof = self._write(gone)
        receipt = str(gone.receipt["payload"]["receipt_id"]).rpartition(":")[2]
        self._narrator.say(f"receipt {receipt[:12]}; anybody can check it without asking the school:")
        self._narrator.say(f"orchard consent verify {self.proof.receipt} --did {self.proof.did}")
        self.event = Event(at=conduct.utc(), kind="withdrawn", text=text, told_by=self._school.place.name)

    def _write(self, gone: learners.Withdrawn) -> Proof:
        place = self._school.place
        folder = place.folder.parent / "receipts"
        folder.mkdir(exist_ok=True)
        proof = Proof(receipt=folder / "withdrawal.json", did=folder / f"{place.slug}-did.json")
        proof.receipt.write_text(json.dumps(gone.receipt, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        client = place.client()
        proof.did.write_text(json.dumps(client.get("/.well-known/did.json"), indent=2) + "\n", encoding="utf-8")
        client.close()
        return proof


def _plan_options(options: DemoOptions, stage: Stage) -> plans.PlanOptions:
    count = len(stage.schools)
    return plans.PlanOptions(
        rounds=options.rounds,
        strategy=options.strategy,
        seed=options.seed,
        aggregation=options.aggregation,
        finetune=options.finetune,
        small_rows=0 if stage.synthetic else options.small_rows,
        min_contributors=options.min_contributors or max(2, -(-2 * count // 3)),
        recruit_seconds=options.recruit_seconds,
        granularity=options.granularity,
    )


def _observations(
    options: DemoOptions,
    stage: Stage,
    job_id: str,
    payload: Mapping[str, Any],
    consented: Mapping[str, Consented],
    leaver: _Leaver,
) -> Observations:
    cards = conduct.cards(stage, job_id)
    ids = conduct.place_ids(stage)
    references, notes = [], []
    if stage.synthetic or options.central:
        metrics = central_reference(stage, dict(payload), dict(options.parameters))
        references.append(Reference(name="central", how="one model over the pooled rows", metrics=metrics))
        notes.append(_POOLED if stage.synthetic else "The demo pooled the folder it was given, as its owner may.")
    events = [leaver.event] if leaver.event is not None else []
    return Observations(
        cards=tuple(
            _card(school, ids[school.place.slug], cards[school.place.slug], consented[school.place.slug])
            for school in stage.schools
        ),
        events=tuple(events),
        references=tuple(references),
        notes=(*notes, "Every school's card was added by its operator, whom the demo plays."),
    )


def _card(school: School, participant: str, card: Mapping[str, Any], consented: Consented) -> ProviderCard:
    steps = tuple(
        CardStep(
            round=row["round"],
            kind=row["kind"],
            metrics=row["card"] or {},
            cpu_seconds=row["cost"].get("cpu_seconds", 0.0),
            wall_seconds=row["cost"].get("wall_seconds", 0.0),
        )
        for row in card["rounds"]
        if row["state"] == "DONE"
    )
    facts = DatasetFolder(Settings.load(school.place.folder)).facts(conduct.dataset_id(school.place))
    return ProviderCard(
        participant=participant,
        name=school.place.name,
        learners=band(len(consented.played.granted)),
        rows=band(facts.train_rows if facts else 0),
        steps=steps,
    )


def clean(stage_root: Path, running: Running | None) -> None:
    """Stop everything and remove the demo's folder."""
    if running is not None:
        running.stop()
    shutil.rmtree(stage_root, ignore_errors=True)


def run(options: DemoOptions, narrator: Narrator) -> tuple[Shown, Running]:
    """Prepare, start and play; the processes are left running for the caller to stop.

    Raises:
        DemoError: and everything else that has a code; the processes are stopped then.
    """
    stage = prepare(options, narrator)
    running = start_stage(stage)
    try:
        return play(options, stage, narrator), running
    except BaseException:
        running.stop()
        raise
