"""The published result of FLamby's heart-disease benchmark, met through the whole stack.

Ogier du Terrail et al. 2022 (NeurIPS Datasets and Benchmarks), Fed-Heart-Disease: four hospitals, logistic regression
on 13 features, FedAvg over 15 rounds of 100 local steps, batches of 4, learning rate 0.001, seeds 42 to 46.
"""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from connector.demo.plans import PlanOptions
from connector.peers.operator import OperatorError
from learning.plans import Aggregation
from tests.support.data import shared_data
from tests.support.stage import Space, space

pytestmark = pytest.mark.e2e

SEEDS = range(42, 47)
# FedAvg of the published table (its appendix, per-client results), mean over the five seeds.
PUBLISHED = {"cleveland": 0.7308, "hungarian": 0.7191, "switzerland": 0.6500, "va": 0.6400}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with space(tmp_path_factory.mktemp("h"), data=shared_data("heart-disease"), refuse_share=0.0) as running:
        yield running


def first_weights(seed: int) -> bytes:
    """Return the weights FLamby starts from: a fresh linear layer after seeding torch."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(13, 1)
    weight, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    return save({"linear.weight": weight, "linear.bias": bias})


def run(hospitals: Space, seed: int, mode: str, *, baseline: bool = False) -> tuple[str, bytes]:
    """Run the protocol once; return the job's id and its final weights."""
    weights = hospitals.ai.post_bytes("/management/weights", first_weights(seed))["sha256"]
    aggregation = Aggregation(mode="clear" if mode == "clear" else "star")
    options = PlanOptions(
        seed=seed, initial_weights=weights, aggregation=aggregation, baseline=baseline, min_contributors=4
    )
    return hospitals.run(hospitals.plan(options))


def test_the_stack_meets_the_published_accuracies(hospitals: Space) -> None:
    """Per-hospital accuracy on each hospital's own card is within 0.005 of the published FedAvg, mean of five seeds."""
    started = time.monotonic()
    found: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for seed in SEEDS:
        job_id, _ = run(hospitals, seed, "star")
        for school in hospitals.stage.schools:
            last = hospitals.card(school, job_id)["rounds"][-1]
            found[school.entry.name].append(last["card"]["test"]["accuracy"])
    means = {name: float(np.mean(values)) for name, values in found.items()}
    print(f"\n{means} in {time.monotonic() - started:.1f} s")
    assert means == pytest.approx(PUBLISHED, abs=0.005)


def test_secure_sums_change_no_bit_of_the_model(hospitals: Space) -> None:
    """The same plan summed by seats and in the clear ends in the same bytes, from weights that the plan names."""
    secure_job, secure = run(hospitals, 42, "star", baseline=True)
    clear_job, clear = run(hospitals, 42, "clear", baseline=True)
    assert secure == clear
    assert secure != first_weights(42)
    metrics = [hospitals.ai.get(f"/management/jobs/{job}")["rounds"][-1]["metrics"] for job in (secure_job, clear_job)]
    assert metrics[0] == metrics[1]
    assert metrics[0]["local"]["accuracy"] is not None


def test_weights_that_nobody_posted_start_no_job(hospitals: Space) -> None:
    """A plan that names weights the AI provider does not have is refused before any hospital hears of it."""
    with pytest.raises(OperatorError, match="initial weights"):
        hospitals.begin(hospitals.plan(PlanOptions(initial_weights="0" * 64)))
