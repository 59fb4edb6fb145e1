"""One step beside the data: three files in, one file out, the same bytes every time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from learning.metrics import local_metrics
from learning.models import Weights, flatten, load_weights
from learning.splits import SPLIT_NAMES, TRAIN
from learning.steps import DATA_FILE, RESULT_FILE, STEP_FILE, WEIGHTS_FILE, Step, parse_step
from learning.training.batches import Examples, SnapshotError, read_examples
from learning.training.fitting import score, train, train_until_best
from learning.training.learners import count_learners, measure_learners, train_learners
from learning.training.networks import build

Arrays = dict[str, NDArray[Any]]


def run_step(step: Mapping[str, Any], inputs: Path, output: Path) -> None:
    """Run the step of ``inputs`` and write exactly one file, ``out.safetensors``, into ``output``.

    The file holds ``train_rows`` and ``epochs`` int64 [1]; ``metrics.<split>.<name>`` float64 in every mode but
    ``predict``; ``delta`` float32 [parameters] in ``train``; ``weights`` float32 [parameters] in ``baseline``,
    ``central`` and ``finetune``; ``scores`` float32 [k] and ``rows`` int64 [k] in ``predict``. Where each learner is a
    contributor it holds ``train_rows`` int64 [learners], metrics float64 [learners, length] and, in ``train``,
    ``deltas`` float32 [learners, parameters].

    Args:
        step: the object of ``step.json``.
        inputs: directory with ``weights.safetensors`` and ``data.safetensors``.
        output: directory to write into.

    Raises:
        StepDocumentError: the step is not one we can run.
        ModelSpecError: its model is not one of ours.
        WeightsError: the weights are not the model's.
        SnapshotError: the data does not fit the model.
        TrainingDivergedError: the weights left float32's range.
    """
    parsed = parse_step(step)
    weights = load_weights(parsed.model, (inputs / WEIGHTS_FILE).read_bytes())
    try:
        arrays = load((inputs / DATA_FILE).read_bytes())
    except SafetensorError as error:
        raise SnapshotError("the snapshot is not a safetensors file") from error
    result = compute(parsed, weights, arrays)
    (output / RESULT_FILE).write_bytes(save({name: np.ascontiguousarray(array) for name, array in result.items()}))


def read_step(inputs: Path) -> Mapping[str, Any]:
    """Return the object of ``step.json`` in ``inputs``."""
    document: Mapping[str, Any] = json.loads((inputs / STEP_FILE).read_bytes())
    return document


def settle() -> None:
    """Put torch on one thread (two are slower, and worse beside a busy process) and on deterministic kernels."""
    torch.set_num_threads(1)
    # The same switch as use_deterministic_algorithms, which also imports the compiler (1.7 s).
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory guards against reading it before it is written; nothing here does, and it costs a fifth.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def compute(step: Step, weights: Weights, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the tensors of ``out.safetensors``; see `run_step`."""
    settle()
    # Not torch.manual_seed, which also notes the seed for GPUs to come, with a formatted stack: 7 ms of each fork's time.
    torch.default_generator.manual_seed(step.seed)
    examples = read_examples(step.model, arrays)
    if step.learners:
        return _each_learner(step, weights, examples)
    match step.mode:
        case "train":
            return _train(step, weights, examples)
        case "evaluate":
            return {**_counts(0, 0), **_metrics(step, weights, examples)}
        case "predict":
            scores, _, rows = score(build(step.model, weights), examples, None)
            return {**_counts(0, 0), "scores": scores, "rows": rows}
        case "baseline" | "central" | "finetune":
            return _train_alone(step, weights, examples)


def _train(step: Step, weights: Weights, examples: Examples) -> Arrays:
    metrics = _metrics(step, weights, examples)
    trained = train(step.model, weights, examples, step.local, step.seed)
    delta = flatten(step.model, trained) - flatten(step.model, weights)
    return {**_counts(examples.size(TRAIN), step.local.epochs or 0), **metrics, "delta": delta}


def _each_learner(step: Step, weights: Weights, examples: Examples) -> Arrays:
    arrays: Arrays = {"train_rows": count_learners(step, examples)}
    for split, sums in measure_learners(step, weights, examples).items():
        arrays |= {f"metrics.{split}.{name}": array for name, array in sums.items()}
    return {**arrays, "deltas": train_learners(step, weights, examples)} if step.mode == "train" else arrays


def _train_alone(step: Step, weights: Weights, examples: Examples) -> Arrays:
    trained, epochs = train_until_best(
        step.model,
        weights,
        examples,
        step.local,
        seed=step.seed,
        max_epochs=step.max_epochs,
        patience=step.patience,
        keep_given=step.mode == "finetune",
    )
    metrics = _metrics(step, trained, examples)
    return {**_counts(examples.size(TRAIN), epochs), **metrics, "weights": flatten(step.model, trained)}


def _metrics(step: Step, weights: Weights, examples: Examples) -> Arrays:
    network = build(step.model, weights)
    arrays: Arrays = {}
    for split in step.splits:
        scores, labels, _ = score(network, examples, SPLIT_NAMES.index(split))
        sums = local_metrics(scores, labels, small=step.small)
        arrays |= {f"metrics.{split}.{name}": array for name, array in sums.items()}
    return arrays


def _counts(train_rows: int, epochs: int) -> Arrays:
    return {"train_rows": np.array([train_rows], dtype=np.int64), "epochs": np.array([epochs], dtype=np.int64)}
