"""Each learner a contributor: trained side by side, the same as one by one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from learning.metrics import local_metrics
from learning.models import Dkt, LogisticRegression, Mlp, ModelSpec, flatten, initial_weights, parameter_count
from learning.splits import TRAIN
from learning.steps import (
    LocalTraining,
    Step,
    StepDocumentError,
    StepResultError,
    learner_seed,
    parse_learners_result,
    parse_step,
    step_document,
)
from learning.training.batches import SnapshotError, read_examples
from learning.training.fitting import score, train
from learning.training.networks import build
from learning.training.step import compute

Arrays = dict[str, NDArray[Any]]
SPECS: tuple[ModelSpec, ...] = (
    LogisticRegression(inputs=3),
    Mlp(inputs=3, hidden=(8, 5)),
    Dkt(skills=6, embedding=4, hidden=8),
)
SGD = LocalTraining(optimiser="sgd", learning_rate=0.3, batch_size=4, epochs=2, clip_norm=0.2, proximal_mu=0.1)
ADAM = LocalTraining(optimiser="adam", learning_rate=0.02, batch_size=4, epochs=2)
STEPS = LocalTraining(optimiser="sgd", learning_rate=0.3, batch_size=4, steps=5)
LEARNERS = 40


def outcomes() -> Arrays:
    """Return rows of 40 learners in a mixed order: none to 11 rows each, of every split."""
    generator = np.random.Generator(np.random.PCG64(7))
    owners = generator.permutation(np.repeat(np.arange(LEARNERS), generator.integers(0, 12, LEARNERS)))
    features = generator.standard_normal((len(owners), 3)).astype(np.float32)
    labels = (features[:, 0] + 0.3 * generator.standard_normal(len(owners)) > 0).astype(np.uint8)
    split = generator.integers(0, 3, len(owners)).astype(np.uint8)
    return {"X": features, "y": labels, "split": split, "learner": owners.astype(np.int32)}


def responses() -> Arrays:
    """Return 40 learners of 1 to 20 answers with one or two skills."""
    generator = np.random.Generator(np.random.PCG64(8))
    lengths = generator.integers(1, 21, LEARNERS)
    total = int(lengths.sum())
    counts = generator.integers(1, 3, total)
    return {
        "offsets": np.cumsum([0, *lengths]),
        "skill_offsets": np.cumsum([0, *counts]),
        "skills": generator.integers(0, 6, int(counts.sum())).astype(np.int32),
        "correct": generator.integers(0, 2, total).astype(np.uint8),
        "split": (np.arange(LEARNERS) % 5 // 2).astype(np.uint8),
    }


def snapshot(spec: ModelSpec) -> Arrays:
    """Return a snapshot of the shape the model takes."""
    return responses() if isinstance(spec, Dkt) else outcomes()


def of_learner(arrays: Arrays, learner: int) -> Arrays:
    """Return the snapshot that holds one learner alone."""
    if "offsets" not in arrays:
        own = arrays["learner"] == learner
        return {name: array[own] for name, array in arrays.items()}
    events = slice(arrays["offsets"][learner], arrays["offsets"][learner + 1])
    places = arrays["skill_offsets"][events.start : events.stop + 1]
    return {
        "offsets": np.array([0, events.stop - events.start]),
        "skill_offsets": places - places[0],
        "skills": arrays["skills"][places[0] : places[-1]],
        "correct": arrays["correct"][events],
        "split": arrays["split"][learner : learner + 1],
    }


def step_of(spec: ModelSpec, local: LocalTraining, mode: Any = "train") -> Step:
    """Return a step in which each learner is a contributor."""
    return Step(mode=mode, model=spec, local=local, seed=11, small=True, learners=LEARNERS)


@pytest.mark.parametrize("local", [SGD, ADAM, STEPS], ids=["sgd", "adam", "steps"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_side_by_side_is_one_by_one(spec: ModelSpec, local: LocalTraining) -> None:
    """Every learner's update, counts and metrics are those of a training of its own, to 1e-6."""
    step, arrays = step_of(spec, local), snapshot(spec)
    weights = initial_weights(spec, seed=3)
    out = compute(step, weights, arrays)
    trained = 0
    for learner in range(LEARNERS):
        alone = read_examples(spec, of_learner(arrays, learner))
        expected = train(spec, weights, alone, local, learner_seed(step.seed, learner))
        delta = flatten(spec, expected) - flatten(spec, weights)
        np.testing.assert_allclose(out["deltas"][learner], delta, atol=1e-6)
        assert out["train_rows"][learner] == alone.size(TRAIN)
        trained += bool(alone.size(TRAIN))
        for number, split in ((1, "valid"), (2, "test")):
            scores, labels, _ = score(build(spec, weights), alone, number)
            for name, array in local_metrics(scores, labels, small=True).items():
                np.testing.assert_allclose(out[f"metrics.{split}.{name}"][learner], array, atol=1e-5)
    assert 10 < trained < LEARNERS


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_the_same_step_gives_the_same_bytes(spec: ModelSpec) -> None:
    """A step whose contributors are learners is a function of its inputs alone."""
    weights = initial_weights(spec, seed=3)
    first, second = (save(compute(step_of(spec, SGD), weights, snapshot(spec))) for _ in range(2))
    assert first == second


def test_the_result_is_read_back() -> None:
    """What the step wrote is what the provider reads: deltas, counts and metrics by learner."""
    spec = SPECS[1]
    step = step_of(spec, SGD)
    out = compute(step, initial_weights(spec, seed=3), outcomes())
    found = parse_learners_result(step, save(out))
    assert found.deltas is not None
    assert found.deltas.shape == (LEARNERS, parameter_count(spec))
    assert found.metrics["test"]["hist_pos"].shape == (LEARNERS, 50)
    assert (found.train_rows == out["train_rows"]).all()
    evaluated = replace(step, mode="evaluate")
    assert (
        parse_learners_result(evaluated, save(compute(evaluated, initial_weights(spec, seed=3), outcomes()))).deltas
        is None
    )


def damaged(out: Arrays, name: str) -> Arrays:
    """Return an output with one thing wrong."""
    changed = {key: array.copy() for key, array in out.items()}
    match name:
        case "a learner short":
            changed["deltas"] = changed["deltas"][1:]
        case "not finite":
            changed["deltas"][3, 0] = np.nan
        case "extra":
            changed["rows"] = np.zeros(1)
        case "negative count":
            changed["train_rows"][0] = -1
        case "counts that contradict":
            changed["metrics.test.count"][2] += 1
        case "missing":
            del changed["metrics.valid.correct"]
    return changed


@pytest.mark.parametrize(
    "name", ["a learner short", "not finite", "extra", "negative count", "counts that contradict", "missing"]
)
def test_a_strange_result_is_refused(name: str) -> None:
    """Nothing that came out of the sandbox is trusted."""
    spec = SPECS[0]
    step = step_of(spec, SGD)
    out = compute(step, initial_weights(spec, seed=3), outcomes())
    with pytest.raises(StepResultError):
        parse_learners_result(step, save(damaged(out, name)))


def test_the_step_says_how_many_learners() -> None:
    """The count travels in the step's document; a snapshot with another one, or without numbers, is refused."""
    spec = SPECS[0]
    step = step_of(spec, SGD)
    assert parse_step(step_document(step)) == step
    with pytest.raises(StepDocumentError):
        parse_step(step_document(replace(step, mode="baseline")))
    weights = initial_weights(spec, seed=3)
    with pytest.raises(SnapshotError):
        compute(replace(step, learners=3), weights, outcomes())
    with pytest.raises(SnapshotError):
        compute(step, weights, {name: array for name, array in outcomes().items() if name != "learner"})
