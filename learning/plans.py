"""Training plans: what an AI provider wants computed, as data.

A plan is immutable and named by the SHA-256 of its canonical JSON. It is signed by the AI provider (document kind
``training-plan``) and approved by each data provider by that digest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from learning.errors import PlanError
from learning.models import ModelSpecError, model_document, parse_model
from learning.steps import StepDocumentError, local_document, parse_local
from learning.strategies import StrategyError, parse_strategy, strategy_document
from policies.canonical import CanonicalFormError, digest

PLAN_KIND = "training-plan"
_FAN_OUTS = range(2, 1001)
_FORBID = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How updates are summed.

    ``star``: one group of ``seats`` seats, any ``threshold`` of which learn nothing (DESIGN section 6).
    ``tree``: leaf groups of as many seats, and groups above them that add the leaves' shares; ``fan_out`` is how many
    groups share a parent at most (None: `learning.shape` chooses).
    ``clear``: the collector sees each update; the contract must allow it.
    ``challenges`` is the share of rounds whose seats must answer for each other's shares although the sum looks right;
    where it cannot be right they always must. A challenge costs a seat up to m - 1 times what its own share did.
    """

    mode: Literal["star", "tree", "clear"] = "star"
    seats: int = 3
    threshold: int = 1
    bits: Literal[32, 64] = 32
    fan_out: int | None = None
    challenges: float = 0.0
    __pydantic_config__ = _FORBID


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured by secure sums.

    Contributors with fewer than ``small_rows`` training rows are averaged apart, so that small schools show; the
    average is made only where at least three of them take part. ``baseline_local`` is how a provider alone would train
    (a document of `learning.steps`); without it, as in a round, which rarely is what somebody alone would choose.
    """

    bins: int = 50
    small_rows: int = 0
    baseline: bool = True
    finetune: bool = False
    baseline_epochs: int = 30
    baseline_local: dict[str, Any] | None = None
    __pydantic_config__ = _FORBID


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One plan. Times in seconds, norms in model units, ``seed`` names the randomness that every run repeats.

    ``granularity``: a ``provider`` is one contributor, or hosts one for each ``learner`` with an update clipped by
    itself and weighted by ``min(rows, weight_cap) / weight_cap``. ``max_learners`` is then what the ring has room for:
    a bound that the plan names, so that no count of learners decides the vector's form.

    ``model``, ``local`` and ``strategy`` are the documents of `learning.models`, `learning.steps` and
    `learning.strategies`, written out in full so that a default can never change what a digest means.
    """

    title: str
    purpose: str
    algorithm_class: str
    shape: Literal["outcomes", "responses"]
    features: str
    model: dict[str, Any]
    seed: int
    rounds: int
    local: dict[str, Any]
    strategy: dict[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "fedavg"})
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()
    granularity: Literal["provider", "learner"] = "provider"
    max_learners: int = 100_000
    initial_weights: str | None = None
    cohort_floor: int = 10
    min_contributors: int = 2
    clip: float = 10.0
    weight_cap: int = 131072
    round_seconds: float = 120.0
    recruit_seconds: float = 3600.0
    job_seconds: float = 86400.0
    round_attempts: int = 3
    version: Literal["1"] = "1"
    __pydantic_config__ = _FORBID


_ADAPTER = pydantic.TypeAdapter(TrainingPlan)

# What one participant can be asked to run; a provider may set lower limits of its own.
_LIMITS = {
    "rounds": 10_000,
    "cohort_floor": 10**6,
    "round_attempts": 20,
    "weight_cap": 2**31,
    "max_learners": 10**6,
}


def parse_plan(payload: Mapping[str, Any]) -> TrainingPlan:
    """Return the plan that a JSON payload describes.

    Raises:
        PlanError: a field is missing, unknown, out of range, or the fields contradict each other.
    """
    try:
        plan = _ADAPTER.validate_python(dict(payload))
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "plan"
        raise PlanError(f"training plan, {where}: {first['msg']}") from error
    try:
        full = dataclasses.replace(
            plan,
            model=dict(model_document(parse_model(plan.model))),
            local=dict(local_document(parse_local(plan.local))),
            strategy=dict(strategy_document(parse_strategy(plan.strategy))),
            evaluation=_full(plan.evaluation),
        )
    except (ModelSpecError, StepDocumentError, StrategyError) as error:
        raise PlanError(f"training plan: {error}") from error
    check_plan(full)
    return full


def _full(evaluation: Evaluation) -> Evaluation:
    if evaluation.baseline_local is None:
        return evaluation
    return dataclasses.replace(evaluation, baseline_local=dict(local_document(parse_local(evaluation.baseline_local))))


def check_plan(plan: TrainingPlan) -> None:
    """Refuse a plan that contradicts itself.

    Raises:
        PlanError: naming the field.
    """
    for name, limit in _LIMITS.items():
        if not 1 <= getattr(plan, name) <= limit:
            raise PlanError(f"training plan, {name}: must be between 1 and {limit}")
    if plan.min_contributors < 2:  # noqa: PLR2004 - a "sum" of one contributor is that contributor
        raise PlanError("training plan, min_contributors: a sum of fewer than 2 contributors hides nobody")
    if min(plan.clip, plan.round_seconds, plan.recruit_seconds, plan.job_seconds) <= 0:
        raise PlanError("training plan: clip, round_seconds, recruit_seconds and job_seconds must be positive")
    if not 0 <= plan.seed < 2**53:
        raise PlanError("training plan, seed: must be between 0 and 2^53 - 1")
    if not 0 <= plan.aggregation.challenges <= 1:
        raise PlanError("training plan, aggregation.challenges: a share of the rounds, between 0 and 1")
    _check_learners(plan)
    _check_fan_out(plan.aggregation)


def _check_learners(plan: TrainingPlan) -> None:
    if plan.granularity == "provider":
        return
    if plan.evaluation.baseline or plan.evaluation.finetune:
        raise PlanError("training plan, evaluation: what a provider reaches alone is not measured learner by learner")
    if plan.aggregation.mode == "clear":
        raise PlanError("training plan, aggregation: single learners' updates are never shown to the collector")
    if plan.max_learners < plan.min_contributors:
        raise PlanError("training plan, max_learners: fewer than min_contributors")


def _check_fan_out(aggregation: Aggregation) -> None:
    if aggregation.fan_out is None:
        return
    if aggregation.mode != "tree" or aggregation.fan_out not in _FAN_OUTS:
        raise PlanError(
            f"training plan, aggregation.fan_out: between {_FAN_OUTS[0]} and {_FAN_OUTS[-1]}, and in a tree only"
        )


def plan_payload(plan: TrainingPlan) -> dict[str, Any]:
    """Return the JSON payload of a plan (the thing that is signed)."""
    return dataclasses.asdict(plan)


def plan_digest(plan: TrainingPlan) -> str:
    """Return the plan's name: SHA-256 of its canonical JSON, hexadecimal.

    Raises:
        PlanError: a field has no canonical form.
    """
    try:
        return digest(plan_payload(plan))
    except CanonicalFormError as error:
        raise PlanError(f"training plan: {error}") from error
