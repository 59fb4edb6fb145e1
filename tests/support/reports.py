"""A finished job's report as `learning.report` writes it: three schools, thirty rounds, and the usual mishaps."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.reporting.observations import Event, Observations, ProviderCard, Reference, card_of
from learning.jobs import Job, JobLine, JobState, Member, MemberState
from learning.models import initial_weights, parse_model, save_weights
from learning.placement import Placement
from learning.plans import TrainingPlan, parse_plan, plan_digest
from learning.report import REPORT_KIND, report_payload
from learning.rounds import Round, RoundKind, RoundState, Step, StepState
from learning.secagg.context import Group, Seat
from learning.secagg.manifest import Manifest, Terms
from learning.secagg.manifest import Member as ManifestMember
from learning.tree import ExecutionTree
from learning.vectors import layout
from policies.canonical import sha256_hex
from policies.signing import Signer, new_signer

JOB = "urn:uuid:6f1d2c52-9a54-4f0e-9a43-1f3f6c0d3f10"
BEGAN = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
NAMES = ("Lycée Jean Moulin", "Collège des Tilleuls", "Gesamtschule Nord")
COLLECTOR = "did:web:127.0.0.1%3A8100"
MODEL = {"kind": "dkt", "skills": 40, "embedding": 16, "hidden": 32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """A signed report with everything that is written beside it."""

    document: dict[str, Any]
    weights: bytes
    model: dict[str, Any]
    observations: Observations
    signer: Signer


def sample(*, providers: int = 3, rounds: int = 30, mode: str = "star") -> Sample:
    """Return a job of ``providers`` schools: one more refused, one seat fell silent, one learner withdrew."""
    spec = parse_model(MODEL)
    weights = save_weights(spec, initial_weights(spec, seed=3))
    plan = _plan(rounds, mode)
    ids = [f"did:web:127.0.0.1%3A{8200 + index}" for index in range(providers)]
    names = {name: NAMES[index] if index < len(NAMES) else f"School {index + 1}" for index, name in enumerate(ids)}
    refused = "did:web:127.0.0.1%3A8300"
    job = Job(
        job_id=JOB,
        plan_digest=plan_digest(plan),
        state=JobState.REPORTING,
        created_at=BEGAN,
        updated_at=BEGAN,
        weights=sha256_hex(weights),
    )
    members = [_member(name, MemberState.DONE) for name in ids]
    members.append(_member(refused, MemberState.LEFT, "refused the plan: this purpose is not allowed"))
    signer = new_signer(COLLECTOR)
    payload = report_payload(
        job,
        plan,
        members,
        _rounds(ids, rounds, plan),
        _manifest(ids, plan),
        names | {refused: "Institut Sainte-Anne"},
        BEGAN + timedelta(minutes=6),
        timeline=_timeline(),
    )
    return Sample(
        document=signer.sign(REPORT_KIND, payload),
        weights=weights,
        model=MODEL,
        observations=_observations(ids, names, rounds),
        signer=signer,
    )


def metrics(behind: int, rounds: int, shift: float = 0.0) -> dict[str, float | int | None]:
    """Return plausible metrics of a model with ``behind`` rounds of training behind it."""
    grown = 1 - math.exp(-4 * behind / rounds) + 0.012 * math.sin(behind * 1.7) * (behind > 0)
    return {
        "count": 4_210,
        "positives": 2_689,
        "accuracy": 0.55 + 0.17 * grown + shift,
        "loss": 0.693 - 0.12 * grown - shift,
        "brier": 0.25 - 0.06 * grown,
        "ece": 0.05 - 0.03 * grown,
        "auc": 0.502 + 0.255 * grown + shift,
        "macro_auc": 0.5 + 0.24 * grown + shift,
        "contributors": 3,
        "small_macro_auc": None,
        "small_contributors": 0,
    }


def _plan(rounds: int, mode: str) -> TrainingPlan:
    return parse_plan(
        {
            "title": "Knowledge tracing at three schools",
            "purpose": "https://w3id.org/dpv#AcademicResearch",
            "algorithm_class": "knowledge-tracing",
            "shape": "responses",
            "features": "ab" * 32,
            "model": MODEL,
            "seed": 7,
            "rounds": rounds,
            "local": {"optimiser": "adam", "learning_rate": 0.001, "batch_size": 32, "epochs": 1},
            "strategy": {"kind": "fedadam"},
            "aggregation": {"mode": mode},
        }
    )


def _member(name: str, state: MemberState, reason: str | None = None) -> Member:
    return Member(job_id=JOB, participant_id=name, agreement_id=f"urn:uuid:{name}", state=state, reason=reason)


def _manifest(ids: list[str], plan: TrainingPlan) -> Manifest:
    terms = Terms(
        job=JOB,
        plan=plan_digest(plan),
        collector=COLLECTOR,
        collector_organisation="Example Learning SAS",
        layout=layout(plan, len(ids)),
        n_min=2,
        n_max=len(ids),
        expires=BEGAN + timedelta(days=1),
        round_seconds=120,
        aggregation=plan.aggregation.mode,
    )
    fields = [{"participant": name, "organisation": name, "public_key": "k"} for name in ids]
    seats = tuple(Seat(**values, sealing_key="s") for values in fields[:3])
    group = Group(seats=seats, threshold=1, n_min=2, n_max=len(ids), copies=2)
    return Manifest(
        digest="cd" * 32,
        terms=terms,
        members=tuple(ManifestMember(**values, sealing_keys=("s",), approval="ef" * 32) for values in fields),
        placement=Placement(seats=tuple(seat.participant for seat in seats), threshold=1, warnings=()),
        tree=ExecutionTree.star([seat.participant for seat in seats]) if plan.aggregation.mode == "star" else None,
        group=group if plan.aggregation.mode == "star" else None,
        beacon="01" * 32,
    )


def _rounds(ids: list[str], rounds: int, plan: TrainingPlan) -> list[Round]:
    opened = BEGAN + timedelta(seconds=41)
    found = []
    for number in range(1, rounds + 2):
        last = number == rounds + 1
        if number == 5:
            found.append(_round(number, 1, opened, ids, plan, rounds, aborted=True))
            opened += timedelta(seconds=9)
        value = _round(number, 2 if number == 5 else 1, opened, ids, plan, rounds, last=last)
        found.append(value)
        opened += timedelta(seconds=value.timing["summed"] + 0.05)
    return found


def _round(
    number: int,
    attempt: int,
    opened: datetime,
    ids: list[str],
    plan: TrainingPlan,
    rounds: int,
    *,
    last: bool = False,
    aborted: bool = False,
) -> Round:
    slow = 1 + 0.25 * math.sin(number * 2.3) + (0.9 if number == 11 else 0)
    trained = 0.12 + (11.4 if last else 1.9 * slow)
    signed = trained + 0.18
    summed = signed + 0.21 + (2.6 if number == 12 else 0)
    absent = ids[1:2] if number == 8 else []
    local = {"local": metrics(rounds, rounds, -0.048)} if last else {}
    measured = {"valid": metrics(number - 1, rounds, 0.006), "test": metrics(number - 1, rounds), **local}
    return Round(
        job_id=JOB,
        round=number,
        attempt=attempt,
        kind=RoundKind.EVALUATE if last else RoundKind.TRAIN,
        state=RoundState.ABORTED if aborted else RoundState.DONE,
        model="12" * 32,
        opened_at=opened,
        deadline=opened + timedelta(seconds=120),
        expected=tuple(ids),
        proposed=None if aborted else [[name, "aa" * 32] for name in ids if name not in absent],
        lost=(2,) if number == 12 else (),
        metrics=None if aborted else measured,
        timing={"announced": 0.12, "trained": trained, "signed": signed, "summed": summed},
        sizes={} if aborted else {"model": 42_400, "vector": 43_760, "values": 10_940},
        reason="1 of 3 contributions, 2 needed" if aborted else None,
    )


def _timeline() -> list[JobLine]:
    lines = [
        (2, "recruiting", "recruiting 4 providers for 'Knowledge tracing at three schools'"),
        (5, "ended", "Institut Sainte-Anne refused the plan: this purpose is not allowed"),
        (9, "waiting", "waiting for the cohort floor at 1 provider"),
        (40, "running", "every member accepted the manifest; training begins"),
        (43, "round-1", "round 1: 3 contributors; model before it: auc 0.5020"),
        (52, "round-5", "attempt 1 given up: 1 of 3 contributions, 2 needed"),
        (64, "round-8", "round 8: Collège des Tilleuls could not contribute: source-missing: no file"),
        (130, "completed", "the model and its signed report are ready"),
    ]
    return [
        JobLine(job_id=JOB, number=index, at=BEGAN + timedelta(seconds=at), code=code, text=text)
        for index, (at, code, text) in enumerate(lines, start=1)
    ]


def _observations(ids: list[str], names: dict[str, str], rounds: int) -> Observations:
    withdrawn = "a learner withdrew; from round 3 on the rows are not read"
    return Observations(
        cards=tuple(_card(index, name, names[name], rounds) for index, name in enumerate(ids)),
        events=(
            Event(at=BEGAN + timedelta(seconds=47), kind="withdrawn", text=withdrawn, told_by=names[ids[0]]),
            Event(
                at=BEGAN + timedelta(seconds=31), kind="waiting", text="the floor of 10 is met", told_by=names[ids[1]]
            ),
        ),
        references=(
            Reference(
                name="central",
                how="the demo pooled its own synthetic rows to train one model, which no real deployment could",
                metrics={"auc": 0.767, "macro_auc": 0.749, "accuracy": 0.731, "loss": 0.561},
            ),
        ),
        notes=(
            "The central reference exists only because these data are synthetic and the demo plays every operator.",
        ),
    )


def _card(index: int, participant: str, name: str, rounds: int) -> ProviderCard:
    shift = (0.031, -0.012, -0.042)[index % 3] - 0.004 * (index // 3)
    steps = [
        Step(
            job_id=JOB,
            round=number,
            attempt=1,
            kind=RoundKind.EVALUATE if number > rounds else RoundKind.TRAIN,
            state=StepState.DONE,
            model="12" * 32,
            opening={},
            opened_at=BEGAN,
            deadline=BEGAN,
            local={
                "valid": metrics(number - 1, rounds, shift),
                "test": metrics(number - 1, rounds, shift),
                **({"local": metrics(rounds, rounds, shift - 0.03 - 0.02 * (index % 3))} if number > rounds else {}),
            },
            cost={"cpu_seconds": 1.4 + index, "wall_seconds": 1.5 + index},
        )
        for number in range(1, rounds + 2)
    ]
    return card_of(participant, name, steps, learners=(212, 96, 34)[index % 3], rows=(9_400, 3_800, 1_150)[index % 3])
