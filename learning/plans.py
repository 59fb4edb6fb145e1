"""Training plans: what an AI provider wants computed, as data.

A plan is immutable and named by the SHA-256 of its canonical JSON. It is signed by the AI provider (document kind
``training-plan``) and approved by each data provider by that digest.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from learning.errors import PlanError
from learning.models import parse_model
from policies.canonical import CanonicalFormError, digest

PLAN_KIND = "training-plan"
_FORBID = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

Positive = pydantic.Field(gt=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """What a contributor does between two rounds. Exactly one of ``epochs`` and ``steps`` is given."""

    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.05
    batch_size: int = 32
    epochs: int | None = None
    steps: int | None = None
    clip_norm: float | None = None
    proximal_mu: float = 0.0
    __pydantic_config__ = _FORBID


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy:
    """The server optimiser (Reddi et al. 2021). FedAvg with ``learning_rate`` 1 is McMahan et al. 2017."""

    kind: Literal["fedavg", "fedadam", "fedadagrad", "fedyogi"] = "fedavg"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    __pydantic_config__ = _FORBID


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How updates are summed.

    ``star``: one group of ``seats`` seats, any ``threshold`` of which learn nothing (DESIGN section 6).
    ``clear``: the collector sees each update; the contract must allow it.
    """

    mode: Literal["star", "clear"] = "star"
    seats: int = 3
    threshold: int = 1
    bits: Literal[32, 64] = 32
    __pydantic_config__ = _FORBID


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured by secure sums.

    Contributors with fewer than ``small_rows`` training rows are averaged apart, so that small schools show; the
    average is made only where at least three of them take part.
    """

    bins: int = 50
    small_rows: int = 0
    baseline: bool = True
    finetune: bool = False
    baseline_epochs: int = 30
    __pydantic_config__ = _FORBID


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One plan. Times in seconds, norms in model units, ``seed`` names the randomness that every run repeats."""

    title: str
    purpose: str
    algorithm_class: str
    shape: Literal["outcomes", "responses"]
    features: str
    model: dict[str, Any]
    seed: int
    rounds: int
    local: LocalTraining
    strategy: Strategy = Strategy()
    aggregation: Aggregation = Aggregation()
    evaluation: Evaluation = Evaluation()
    granularity: Literal["provider"] = "provider"
    initial_weights: str | None = None
    cohort_floor: int = 10
    min_contributors: int = 2
    clip: float = 10.0
    weight_cap: int = 131072
    round_seconds: float = 120.0
    recruit_seconds: float = 3600.0
    round_attempts: int = 3
    version: Literal["1"] = "1"
    __pydantic_config__ = _FORBID


_ADAPTER = pydantic.TypeAdapter(TrainingPlan)

# What one participant can be asked to run; a provider may set lower limits of its own.
_LIMITS = {"rounds": 10_000, "cohort_floor": 10**6, "round_attempts": 20, "weight_cap": 2**31}


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
    check_plan(plan)
    return plan


def check_plan(plan: TrainingPlan) -> None:
    """Refuse a plan that contradicts itself.

    Raises:
        PlanError: naming the field.
    """
    parse_model(plan.model)
    if (plan.local.epochs is None) == (plan.local.steps is None):
        raise PlanError("training plan, local: give exactly one of epochs and steps")
    for name, limit in _LIMITS.items():
        if not 1 <= getattr(plan, name) <= limit:
            raise PlanError(f"training plan, {name}: must be between 1 and {limit}")
    if plan.min_contributors < 2:  # noqa: PLR2004 - a "sum" of one contributor is that contributor
        raise PlanError("training plan, min_contributors: a sum of fewer than 2 contributors hides nobody")
    if plan.clip <= 0 or plan.round_seconds <= 0 or plan.local.batch_size < 1 or plan.local.learning_rate <= 0:
        raise PlanError("training plan: clip, round_seconds, batch_size and learning_rate must be positive")
    if not 0 <= plan.seed < 2**53:
        raise PlanError("training plan, seed: must be between 0 and 2^53 - 1")


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
