"""A training step as a document: what goes into the sandbox, what comes out, checked on the way back. No torch here.

A step directory holds three files: ``step.json`` (`step_document`), ``weights.safetensors`` (`learning.models`) and
``data.safetensors`` (the snapshot, arrays below). The step writes one file, ``out.safetensors``; what a sandbox wrote is
a stranger's bytes, so `parse_result` checks every name, shape, type and value before anything else reads them.

Snapshot of *outcomes*: ``X`` float32 [n, d], ``y`` uint8 [n] (0 or 1; may be left out to predict), ``split`` uint8 [n],
``learner`` int32 [n] (whose row it is, numbered from 0; needed where each learner is a contributor).
Snapshot of *responses*: ``offsets`` int64 [learners + 1] into events in time order, ``skill_offsets`` int64 [events + 1]
into ``skills`` int32 (at least one a event), ``correct`` uint8 [events], ``split`` uint8 [learners].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from learning.metrics import MetricsError, Sums, metric_sections
from learning.models import ModelSpec, model_document, parameter_count, parse_model
from learning.splits import SPLIT_NAMES
from policies.canonical import Json, digest

STEP_FILE: Final = "step.json"
WEIGHTS_FILE: Final = "weights.safetensors"
DATA_FILE: Final = "data.safetensors"
RESULT_FILE: Final = "out.safetensors"

Mode: TypeAlias = Literal["train", "evaluate", "baseline", "finetune", "predict", "central"]

_MAX_SEED: Final = 2**53 - 1
_MAX_EPOCHS: Final = 1_000
_MAX_STEPS: Final = 1_000_000
_MAX_BATCH: Final = 65_536
_MAX_LEARNERS: Final = 1_000_000


class StepDocumentError(ValueError):
    """The plan's local part, or a step document made from it, is not one we can run."""

    code = "step_invalid"


class StepResultError(ValueError):
    """What came out of the sandbox is not the result the step owes."""

    code = "step_result_invalid"


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a contributor trains: the plan's local part.

    Attributes:
        optimiser: ``sgd`` or ``adam`` (fresh state each step).
        learning_rate: of the local optimiser.
        batch_size: rows (outcomes) or learners (responses) a minibatch.
        epochs: passes over the training data; None when ``steps`` says how long.
        steps: minibatches, going on through the data epoch after epoch; None when ``epochs`` does.
        clip_norm: largest L2 norm of a minibatch gradient; None for no limit.
        proximal_mu: weight of FedProx's term ``mu / 2 * |w - w_global|^2`` (Li et al. 2020); 0 leaves it out.
    """

    optimiser: Literal["sgd", "adam"]
    learning_rate: float
    batch_size: int
    epochs: int | None = None
    steps: int | None = None
    clip_norm: float | None = None
    proximal_mu: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        mode: ``train`` (evaluate the given weights, then train and give the difference), ``evaluate``, ``baseline`` and
            ``central`` (train alone with early stopping, evaluate), ``finetune`` (the same from the given weights, kept
            only if better on the own validation split), ``predict`` (scores).
        model: the model.
        local: how to train; ``baseline``, ``central`` and ``finetune`` take ``max_epochs`` for its length.
        seed: from plan seed, round and contributor; the same step gives the same bytes.
        small: the contributor counts as small in the metrics.
        splits: what is evaluated, of ``train``, ``valid``, ``test``.
        learners: 0: the provider is one contributor. Else each of so many learners of the snapshot is one, in ``train``
            and ``evaluate`` alone: it trains its own copy of the weights on its own rows.
        max_epochs: most epochs of the modes that stop early.
        patience: epochs without a better validation AUC before they stop.
    """

    mode: Mode
    model: ModelSpec
    local: LocalTraining
    seed: int
    small: bool = False
    splits: tuple[str, ...] = ("valid", "test")
    learners: int = 0
    max_epochs: int = 30
    patience: int = 5


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gives back, checked.

    Attributes:
        delta: local minus given weights, float32 [parameters] (``train``).
        weights: the provider's own weights, float32 [parameters] (``baseline``, ``central``, ``finetune``).
        metrics: sums per evaluated split, as `learning.metrics.local_metrics`.
        train_rows: rows or predicted answers trained on in one epoch (0 in ``evaluate`` and ``predict``).
        epochs: epochs behind the result (``finetune``: 0 when the given weights were kept).
        scores: predicted probabilities [k] (``predict``).
        rows: index of each score's row or event in the snapshot [k] (``predict``).
    """

    delta: NDArray[np.float32] | None = None
    weights: NDArray[np.float32] | None = None
    metrics: Mapping[str, Sums]
    train_rows: int
    epochs: int
    scores: NDArray[np.float32] | None = None
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class LearnersResult:
    """What a step with ``learners`` gives back, checked; row i is learner i of the snapshot.

    Attributes:
        deltas: local minus given weights, float32 [learners, parameters]; zero where a learner has nothing to train on
            (None in ``evaluate``).
        metrics: split -> name -> float64 [learners, length], each row as `learning.metrics.local_metrics`.
        train_rows: rows or predicted answers that each learner trains on in one epoch, int64 [learners].
    """

    deltas: NDArray[np.float32] | None
    metrics: Mapping[str, Sums]
    train_rows: NDArray[np.int64]


def learner_seed(seed: int, learner: int) -> int:
    """Return the seed of one learner's own training within a step."""
    return int(digest([seed, learner]), 16) % (_MAX_SEED + 1)


def parse_local(document: Mapping[str, Any]) -> LocalTraining:
    """Return the local part of a plan.

    Raises:
        StepDocumentError: an unknown member, a value out of range, or not exactly one of ``epochs`` and ``steps``.
    """
    if not isinstance(document, Mapping):
        raise StepDocumentError("the local part is a JSON object")
    members = dict(document)
    optimiser = members.pop("optimiser", None)
    if optimiser not in ("sgd", "adam"):
        raise StepDocumentError("'optimiser' must be 'sgd' or 'adam'")
    local = LocalTraining(
        optimiser=optimiser,
        learning_rate=_number(members, "learning_rate", low=1e-9, high=100),
        batch_size=_integer(members, "batch_size", 1, _MAX_BATCH),
        epochs=_integer(members, "epochs", 1, _MAX_EPOCHS) if members.get("epochs") is not None else None,
        steps=_integer(members, "steps", 1, _MAX_STEPS) if members.get("steps") is not None else None,
        clip_norm=_number(members, "clip_norm", low=1e-9, high=1e9) if members.get("clip_norm") is not None else None,
        proximal_mu=_number(members, "proximal_mu", low=0, high=1e6) if "proximal_mu" in members else 0.0,
    )
    if unknown := sorted(name for name, value in members.items() if value is not None):
        raise StepDocumentError(f"local training has no setting {unknown[0]!r}")
    if (local.epochs is None) == (local.steps is None):
        raise StepDocumentError("local training takes exactly one of 'epochs' and 'steps'")
    return local


def local_document(local: LocalTraining) -> dict[str, Json]:
    """Return the JSON object that `parse_local` reads back as ``local``."""
    document: dict[str, Json] = {
        "optimiser": local.optimiser,
        "learning_rate": local.learning_rate,
        "batch_size": local.batch_size,
        "proximal_mu": local.proximal_mu,
    }
    optional = {"epochs": local.epochs, "steps": local.steps, "clip_norm": local.clip_norm}
    return {**document, **{name: value for name, value in optional.items() if value is not None}}


def parse_step(document: Mapping[str, Any]) -> Step:
    """Return the step of a ``step.json`` object.

    Raises:
        StepDocumentError: an unknown or missing member, or a value out of range.
        ModelSpecError: the model is not one of ours.
    """
    members = dict(document)
    mode, splits = members.pop("mode", None), members.pop("splits", ["valid", "test"])
    small = members.pop("small", False)
    if mode not in get_args(Mode):
        raise StepDocumentError(f"step mode {mode!r} is unknown")
    if not isinstance(splits, list | tuple) or not set(splits) <= set(SPLIT_NAMES) or len(set(splits)) != len(splits):
        raise StepDocumentError("'splits' must list different ones of train, valid and test")
    if not isinstance(small, bool):
        raise StepDocumentError("'small' must be true or false")
    step = Step(
        mode=mode,
        model=parse_model(members.pop("model", {})),
        local=parse_local(members.pop("local", {})),
        seed=_integer(members, "seed", 0, _MAX_SEED),
        small=small,
        splits=tuple(splits),
        learners=_integer(members, "learners", 0, _MAX_LEARNERS) if "learners" in members else 0,
        max_epochs=_integer(members, "max_epochs", 1, _MAX_EPOCHS) if "max_epochs" in members else 30,
        patience=_integer(members, "patience", 1, _MAX_EPOCHS) if "patience" in members else 5,
    )
    if members:
        raise StepDocumentError(f"a step has no member {min(members)!r}")
    if step.learners and step.mode not in ("train", "evaluate"):
        raise StepDocumentError("each learner is a contributor in 'train' and 'evaluate' only")
    return step


def step_document(step: Step) -> dict[str, Json]:
    """Return the JSON object of ``step.json``; `parse_step` reads it back."""
    return {
        "mode": step.mode,
        "model": model_document(step.model),
        "local": local_document(step.local),
        "seed": step.seed,
        "small": step.small,
        "splits": list(step.splits),
        **({"learners": step.learners} if step.learners else {}),
        "max_epochs": step.max_epochs,
        "patience": step.patience,
    }


def parse_result(step: Step, data: bytes) -> StepResult:
    """Read ``out.safetensors`` as what ``step`` owes, trusting nothing in it.

    Raises:
        StepResultError: a tensor is missing, extra, of another shape or type, not finite or out of range.
    """
    tensors = _load(data)
    flat = (parameter_count(step.model),)
    delta = _take(tensors, "delta", np.float32, flat) if step.mode == "train" else None
    owned = step.mode in ("baseline", "central", "finetune")
    weights = _take(tensors, "weights", np.float32, flat) if owned else None
    scores = _take(tensors, "scores", np.float32, None) if step.mode == "predict" else None
    rows = (
        _take(tensors, "rows", np.int64, None if scores is None else scores.shape) if step.mode == "predict" else None
    )
    train_rows, epochs = _take(tensors, "train_rows", np.int64, (1,)), _take(tensors, "epochs", np.int64, (1,))
    if min(train_rows[0], epochs[0]) < 0 or (rows is not None and rows.size and rows.min() < 0):
        raise StepResultError("the step's output holds a negative count")
    if scores is not None and (scores.ndim != 1 or not ((scores >= 0) & (scores <= 1)).all()):
        raise StepResultError("a score is not a probability")
    metrics = {} if step.mode == "predict" else _take_metrics(tensors, step.splits)
    if tensors:
        raise StepResultError(f"the step's output holds an unexpected tensor {min(tensors)[:40]!r}")
    return StepResult(
        delta=delta,
        weights=weights,
        metrics=metrics,
        train_rows=int(train_rows[0]),
        epochs=int(epochs[0]),
        scores=scores,
        rows=rows,
    )


def parse_learners_result(step: Step, data: bytes) -> LearnersResult:
    """Read ``out.safetensors`` as what a step with ``learners`` owes, trusting nothing in it.

    Raises:
        StepResultError: as `parse_result`.
    """
    tensors, count = _load(data), step.learners
    flat = (count, parameter_count(step.model))
    deltas = _take(tensors, "deltas", np.float32, flat) if step.mode == "train" else None
    train_rows = _take(tensors, "train_rows", np.int64, (count,))
    metrics: dict[str, Sums] = {split: {} for split in step.splits}
    for section in metric_sections(step.splits):
        array = _take(tensors, f"metrics.{section.name}", np.float64, (count, section.length))
        if array.size and array.min() < 0:
            raise StepResultError(f"metric {section.name} is negative")
        split, name = section.name.rsplit(".", 1)
        metrics[split][name] = array
    for split, sums in metrics.items():
        _contradict(split, sums)
    if train_rows.size and train_rows.min() < 0:
        raise StepResultError("the step's output holds a negative count")
    if tensors:
        raise StepResultError(f"the step's output holds an unexpected tensor {min(tensors)[:40]!r}")
    return LearnersResult(deltas=deltas, metrics=metrics, train_rows=train_rows)


def _load(data: bytes) -> dict[str, NDArray[Any]]:
    try:
        return dict(load(data))
    except (SafetensorError, KeyError, ValueError) as error:
        raise StepResultError("the step's output is not a safetensors file") from error


def _take_metrics(tensors: dict[str, NDArray[Any]], splits: tuple[str, ...]) -> dict[str, Sums]:
    metrics: dict[str, Sums] = {split: {} for split in splits}
    for section in metric_sections(splits):
        array = _take(tensors, f"metrics.{section.name}", np.float64, (section.length,))
        if array.min() < 0:
            raise StepResultError(f"metric {section.name} is negative")
        split, name = section.name.rsplit(".", 1)
        metrics[split][name] = array
    for split, sums in metrics.items():
        _contradict(split, sums)
    return metrics


def _contradict(split: str, sums: Sums) -> None:
    try:
        _check_counts(sums)
    except MetricsError as error:
        raise StepResultError(f"the counts of {split} contradict each other") from error


def _check_counts(sums: Sums) -> None:
    """Check sums of one contributor [length], or of many [contributors, length]."""
    count, positives = sums["count"][..., 0], sums["positives"][..., 0]
    right, wrong = sums["hist_pos"].sum(-1), sums["hist_neg"].sum(-1)
    most = np.maximum(sums["correct"], sums["brier_sum"])[..., 0]
    if (right != positives).any() or (wrong != count - positives).any() or (most > count).any():
        raise MetricsError("counts")


def _take(
    tensors: dict[str, NDArray[Any]], name: str, dtype: type[np.generic], shape: tuple[int, ...] | None
) -> NDArray[Any]:
    array = tensors.pop(name, None)
    if array is None:
        raise StepResultError(f"the step's output lacks {name!r}")
    if array.dtype != dtype or (shape is not None and array.shape != shape):
        raise StepResultError(f"{name!r} of the step's output has another type or shape")
    if not np.isfinite(array).all():
        raise StepResultError(f"{name!r} of the step's output holds a value that is not finite")
    return array


def _integer(members: dict[str, Any], name: str, low: int, high: int) -> int:
    value = members.pop(name, None)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise StepDocumentError(f"{name!r} must be an integer between {low} and {high}")
    return value


def _number(members: dict[str, Any], name: str, *, low: float, high: float) -> float:
    value = members.pop(name, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise StepDocumentError(f"{name!r} must be a number between {low:g} and {high:g}")
    return float(value)
