"""The reference numbers of FLamby's heart-disease benchmark, met by a bare loop over the step function.

Ogier du Terrail et al. 2022 (NeurIPS Datasets and Benchmarks): four hospitals, logistic regression on 13 features,
15 rounds of 100 local SGD steps with batches of 4 and learning rate 0.001 (0.01 under FedAdam), averaged by training
size, seeds 42 to 46.
Preparation: columns 10 to 12 and rows with a missing value are dropped, columns 2 and 6 are coded as indicators without
their first level, each hospital is standardised with its own training rows (divisor n - 1).
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from learning.metrics import summarise, unpack_metrics
from learning.models import LogisticRegression, Weights, flatten, unflatten
from learning.splits import TRAIN, stratified_split
from learning.steps import LocalTraining, Step
from learning.strategies import FedAdam, FedAvg, Strategy, apply, initial_state
from learning.training.step import Arrays, compute

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
MODEL = LogisticRegression(inputs=13)
SEEDS = range(42, 47)


def data_folder() -> Path:
    """Return the folder of the four files: $ORCHARD_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("ORCHARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
    return root / "heart-disease"


def hospital(name: str) -> Arrays:
    """Return one hospital's snapshot, prepared as FLamby does."""
    lines = (data_folder() / f"processed.{name}.data").read_text().split()
    rows = [[cells[index] for index in (*range(10), 13)] for cells in (line.split(",") for line in lines)]
    values = np.array([[float(cell) for cell in row] for row in rows if "?" not in row])
    labels = (values[:, -1] > 0).astype(np.uint8)
    indicators = [values[:, column] == level for column, level in ((2, 2), (2, 3), (2, 4), (6, 1), (6, 2))]
    plain = [values[:, column] for column in (0, 1, 3, 4, 5, 7, 8, 9)]
    features = np.stack([*plain, *indicators], axis=1).astype(np.float32)
    split = stratified_split(labels, train_fraction=0.66, seed=43)
    own = features[split == TRAIN]
    standardised = (features - own.mean(0)) / (own.std(0, ddof=1) + 1e-9)
    return {"X": standardised.astype(np.float32), "y": labels, "split": split}


def torch_start(seed: int) -> Weights:
    """Return the weights FLamby starts from: a fresh linear layer after seeding torch."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(13, 1)
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    return {"linear.weight": weight, "linear.bias": bias}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_stored_first_weights_are_those_that_torch_draws(seed: int) -> None:
    """The test of the whole stack starts from them without loading torch."""
    stored = json.loads((Path(__file__).parents[1] / "vectors" / "flamby_heart.json").read_text(encoding="utf-8"))
    drawn = torch_start(seed)
    plain = [*drawn["linear.weight"].reshape(-1).tolist(), *drawn["linear.bias"].tolist()]
    assert stored["first_weights"][str(seed)] == plain


def federate(data: list[Arrays], seed: int, strategy: Strategy, rate: float) -> NDArray[np.float64]:
    """Run the protocol once and return the accuracy of every hospital on its own test rows."""
    sizes = np.array([np.count_nonzero(arrays["split"] == TRAIN) for arrays in data], dtype=np.float64)
    local = LocalTraining(optimiser="sgd", learning_rate=rate, batch_size=4, steps=100)
    weights, state = torch_start(seed), initial_state(strategy, 14)
    for round_number in range(15):
        deltas = []
        for place, arrays in enumerate(data):
            own_seed = (seed * 1_000 + round_number) * 10 + place
            step = Step(mode="train", model=MODEL, local=local, seed=own_seed, splits=())
            deltas.append(compute(step, weights, arrays)["delta"].astype(np.float64))
        mean = np.average(deltas, axis=0, weights=sizes)
        flat, state = apply(strategy, flatten(MODEL, weights), mean, state)
        weights = unflatten(MODEL, flat)
    step = Step(mode="evaluate", model=MODEL, local=local, seed=seed, splits=("test",))
    return np.array([accuracy(compute(step, weights, arrays)) for arrays in data])


def accuracy(result: Arrays) -> float:
    """Return the test accuracy that a step's metrics say."""
    vector = np.concatenate([array for name, array in result.items() if name.startswith("metrics.")])
    value = summarise(unpack_metrics(vector, ("test",))["test"])["accuracy"]
    assert value is not None
    return value


def mean_accuracies(strategy: Strategy, rate: float) -> NDArray[np.float64]:
    """Return per-hospital accuracy, mean over the five seeds."""
    data = [hospital(name) for name in HOSPITALS]
    means: NDArray[np.float64] = np.mean([federate(data, seed, strategy, rate) for seed in SEEDS], axis=0)
    return means


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "rate", "published"),
    [
        (FedAvg(), 0.001, (0.7308, 0.7191, 0.6500, 0.6400)),
        (FedAdam(learning_rate=0.01, beta2=0.999, tau=1e-8), 0.01, (0.7519, 0.7461, 0.7375, 0.6667)),
    ],
)
def test_step_meets_the_published_accuracies(strategy: Strategy, rate: float, published: tuple[float, ...]) -> None:
    """A bare loop over the step function gives FLamby's accuracy within 0.005 in every hospital."""
    assert mean_accuracies(strategy, rate) == pytest.approx(published, abs=0.005)
