"""What a contributor computes in one round: one or more sandboxed steps over one snapshot."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.errors import StepFailedError
from learning.metrics import Sums, summarise
from learning.models import parse_model
from learning.plans import TrainingPlan
from learning.ports import Snapshot, Trainer
from learning.rounds import RoundKind
from learning.steps import (
    LearnersResult,
    Mode,
    Step,
    StepResult,
    StepResultError,
    parse_learners_result,
    parse_local,
    parse_result,
    step_document,
)
from policies.canonical import digest

_SEED_BITS = 2**53


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """A contributor's part of a round before it is masked. ``card`` is for the provider's own eyes."""

    delta: NDArray[np.float64] | None
    train_rows: int
    metrics: Mapping[str, Sums]
    card: dict[str, Any]
    cost: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnersOutcome:
    """The part of each of a provider's learners in a round before it is masked; ``card`` is the provider's own."""

    result: LearnersResult
    card: dict[str, Any]
    cost: Mapping[str, float]


def run_learners_step(
    trainer: Trainer,
    plan: TrainingPlan,
    kind: RoundKind,
    number: int,
    contributor: str,
    weights: bytes,
    snapshot: Snapshot,
    *,
    small: bool,
) -> LearnersOutcome:
    """Run one step in which every learner of the snapshot trains, or is measured, by itself.

    Raises:
        StepFailedError: the sandbox stopped the step, or its output is not what the step owes.
    """
    step = Step(
        mode="train" if kind is RoundKind.TRAIN else "evaluate",
        model=parse_model(plan.model),
        local=parse_local(plan.local),
        seed=step_seed(plan, number, contributor),
        small=small,
        learners=len(snapshot.learners),
    )
    output = trainer.run(step_document(step), weights, snapshot.path)
    try:
        result = parse_learners_result(step, output.data)
    except StepResultError as error:
        raise StepFailedError(error.code, str(error)) from error
    sums = {
        split: {name: array.sum(axis=0) for name, array in found.items()} for split, found in result.metrics.items()
    }
    return LearnersOutcome(
        result=result, card={split: summarise(found) for split, found in sums.items()}, cost=output.cost
    )


def run_round_steps(
    trainer: Trainer,
    plan: TrainingPlan,
    kind: RoundKind,
    number: int,
    contributor: str,
    weights: bytes,
    snapshot: Snapshot,
    *,
    first: Callable[[], bytes],
    small: bool,
) -> StepOutcome:
    """Run the steps of a round: training, or the evaluation of the final model beside what a provider has alone.

    ``weights`` is the round's model, ``first`` returns the one that the job began with; both are safetensors bytes.

    Raises:
        StepFailedError: the sandbox stopped a step, or its output is not what the step owes.
    """
    if kind is RoundKind.TRAIN:
        result, cost = _run(trainer, plan, "train", number, contributor, weights, snapshot, small=small)
        delta = None if result.delta is None else result.delta.astype(np.float64)
        return _outcome(result, delta, dict(result.metrics), cost)
    result, cost = _run(trainer, plan, "evaluate", number, contributor, weights, snapshot, small=small)
    metrics: dict[str, Sums] = dict(result.metrics)
    extra: list[tuple[str, Mode]] = [("local", "baseline")] if plan.evaluation.baseline else []
    if plan.evaluation.finetune:
        extra.append(("finetuned", "finetune"))
    for name, mode in extra:
        start = first() if mode == "baseline" else weights
        alone, spent = _run(trainer, plan, mode, number, contributor, start, snapshot, small=small)
        metrics[name] = alone.metrics["test"]
        cost = {key: cost.get(key, 0.0) + value for key, value in spent.items()}
    return _outcome(result, None, metrics, cost)


def step_seed(plan: TrainingPlan, number: int, contributor: str) -> int:
    """Return the seed of a contributor's step: from plan seed, round and contributor, below 2^53."""
    return int(digest([plan.seed, number, contributor]), 16) % _SEED_BITS


def _run(
    trainer: Trainer,
    plan: TrainingPlan,
    mode: Mode,
    number: int,
    contributor: str,
    weights: bytes,
    snapshot: Snapshot,
    *,
    small: bool,
) -> tuple[StepResult, Mapping[str, float]]:
    step = Step(
        mode=mode,
        model=parse_model(plan.model),
        local=parse_local(_local(plan, mode)),
        seed=step_seed(plan, number, contributor),
        small=small,
        max_epochs=plan.evaluation.baseline_epochs,
    )
    output = trainer.run(step_document(step), weights, snapshot.path)
    try:
        return parse_result(step, output.data), output.cost
    except StepResultError as error:
        raise StepFailedError(error.code, str(error)) from error


def _local(plan: TrainingPlan, mode: Mode) -> dict[str, Any]:
    alone = mode == "baseline" and plan.evaluation.baseline_local is not None
    return plan.evaluation.baseline_local or plan.local if alone else plan.local


def _outcome(
    result: StepResult, delta: NDArray[np.float64] | None, metrics: Mapping[str, Sums], cost: Mapping[str, float]
) -> StepOutcome:
    card = {split: summarise(sums) for split, sums in metrics.items()}
    return StepOutcome(delta=delta, train_rows=result.train_rows, metrics=metrics, card=card, cost=cost)
