"""The bare federated loop that jobs are measured against."""

import numpy as np

from learning.models import LogisticRegression, flatten, initial_weights
from learning.steps import LocalTraining
from learning.strategies import FedAvg
from learning.training.step import Arrays
from tests.benchmarks.bare_loop import BareRun, run_bare_loop

MODEL = LogisticRegression(inputs=2)


def provider(seed: int, rows: int) -> Arrays:
    """Return rows whose label is the sign of the first feature."""
    features = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, 2)).astype(np.float32)
    split = (np.arange(rows) % 5 // 2).astype(np.uint8)
    return {"X": features, "y": (features[:, 0] > 0).astype(np.uint8), "split": split}


def run(data: list[Arrays]) -> BareRun:
    """Run four rounds of FedAvg."""
    local = LocalTraining(optimiser="sgd", learning_rate=0.5, batch_size=16, epochs=1)
    start = initial_weights(MODEL, seed=1)
    return run_bare_loop(MODEL, start, data, local, FedAvg(), rounds=4, seed=1, small=[False, True])


def test_bare_loop_learns_and_repeats_exactly() -> None:
    """Rounds raise the validation AUC, metrics count every provider, and a second run has the same weights."""
    data = [provider(1, 200), provider(2, 50)]
    first, again = run(data), run(data)
    summary = first.rounds[-1].summary["valid"]
    assert (summary["count"], summary["contributors"], summary["small_contributors"]) == (100, 2, 1)
    assert summary["auc"] is not None
    assert summary["auc"] > 0.95
    assert flatten(MODEL, first.weights).tobytes() == flatten(MODEL, again.weights).tobytes()


def test_bare_loop_weighs_by_training_rows() -> None:
    """A provider without training rows changes nothing."""
    idle = provider(2, 50)
    idle["split"][:] = 2
    alone, beside = run([provider(1, 200)]), run([provider(1, 200), idle])
    assert flatten(MODEL, alone.weights).tobytes() == flatten(MODEL, beside.weights).tobytes()
