"""The published result of FLamby's heart-disease benchmark, met through the whole stack.

Ogier du Terrail et al. 2022 (NeurIPS Datasets and Benchmarks), Fed-Heart-Disease: four hospitals, logistic regression
on 13 features, FedAvg over 15 rounds of 100 local steps, batches of 4, learning rate 0.001, seeds 42 to 46.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from connector.demo.plans import PlanOptions
from connector.demo.stage import School
from connector.peers.operator import OperatorError
from learning.plans import Aggregation
from tests.support.data import shared_data
from tests.support.stage import Space, space

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

VECTORS = Path(__file__).parents[1] / "vectors"
SEEDS = range(42, 47)
ROUNDS = 15
# A provider's order of rows follows from its id, which holds its port. Over other orders a hospital's mean moves by up
# to 0.0045 (measured over twelve): with fixed ports every run is the same one.
BASE_PORT = 27240
# FedAvg of the published table (its appendix, per-client results), mean over the five seeds.
PUBLISHED = {"cleveland": 0.7308, "hungarian": 0.7191, "switzerland": 0.6500, "va": 0.6400}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    data = shared_data("heart-disease")
    with space(tmp_path_factory.mktemp("h"), data=data, refuse_share=0.0, base_port=BASE_PORT) as running:
        yield running


@pytest.fixture(scope="module")
def first_weights() -> dict[int, bytes]:
    """Return the weights FLamby starts from, by seed."""
    found = json.loads((VECTORS / "flamby_heart.json").read_text(encoding="utf-8"))["first_weights"]
    drawn = {seed: np.array(found[str(seed)], dtype=np.float32) for seed in SEEDS}
    return {seed: save({"linear.weight": each[None, :-1], "linear.bias": each[-1:]}) for seed, each in drawn.items()}


@pytest.fixture(scope="module")
def jobs(hospitals: Space, first_weights: dict[int, bytes]) -> dict[tuple[int, str], tuple[str, bytes]]:
    """Return job id and final weights by seed and mode: secure sums for every seed, and clear ones for the first."""
    started = time.monotonic()
    wanted = [*((seed, "star") for seed in SEEDS), (SEEDS[0], "clear")]
    # Side by side: what one job waits for leaves the cores to the others.
    begun = {which: begin(hospitals, *which, first_weights[which[0]]) for which in wanted}
    found = {which: finish(hospitals, job_id) for which, job_id in begun.items()}
    print(f"\n{len(found)} jobs of {ROUNDS} rounds in {time.monotonic() - started:.1f} s")
    return found


def finish(hospitals: Space, job_id: str) -> tuple[str, bytes]:
    """Return the job's id and its final weights, once it is complete."""
    hospitals.end(job_id)
    return job_id, hospitals.model(job_id)


def begin(hospitals: Space, seed: int, mode: str, first: bytes) -> str:
    """Begin the protocol and return the job's id once it trains. One seed also measures hospitals alone.

    A transfer is for the plan that its agreement named last: the next job may begin, the jobs then run side by side.
    """
    weights = hospitals.ai.post_bytes("/management/weights", first)["sha256"]
    options = PlanOptions(
        seed=seed,
        initial_weights=weights,
        aggregation=Aggregation(mode="clear" if mode == "clear" else "star"),
        baseline=seed == SEEDS[0],
        min_contributors=4,
    )
    payload = hospitals.plan(options)
    assert payload["rounds"] == ROUNDS
    job_id = hospitals.begin(payload)
    hospitals.when(job_id, lambda job: job["state"] != "RECRUITING")
    return job_id


def test_the_stack_meets_the_published_accuracies(
    hospitals: Space, jobs: dict[tuple[int, str], tuple[str, bytes]]
) -> None:
    """Per-hospital accuracy on each hospital's own card is within 0.005 of the published FedAvg, mean of five seeds."""
    means = {
        school.entry.name: float(np.mean([accuracy(hospitals, school, jobs[seed, "star"][0]) for seed in SEEDS]))
        for school in hospitals.stage.schools
    }
    print(means)
    assert means == pytest.approx(PUBLISHED, abs=0.005)


def accuracy(hospitals: Space, school: School, job_id: str) -> float:
    """Return the final model's accuracy on a hospital's own test rows, as only that hospital knows it."""
    last = hospitals.card(school, job_id)["rounds"][-1]
    assert last["kind"] == "evaluate"
    return float(last["card"]["test"]["accuracy"])


def test_secure_sums_change_no_bit_of_the_model(
    hospitals: Space, jobs: dict[tuple[int, str], tuple[str, bytes]], first_weights: dict[int, bytes]
) -> None:
    """The same plan summed by seats and in the clear ends in the same bytes, and in the same measured sums."""
    secure_job, secure = jobs[SEEDS[0], "star"]
    clear_job, clear = jobs[SEEDS[0], "clear"]
    assert secure == clear
    assert secure != first_weights[SEEDS[0]]
    metrics = [hospitals.ai.get(f"/management/jobs/{job}")["rounds"][-1]["metrics"] for job in (secure_job, clear_job)]
    assert metrics[0] == metrics[1]
    assert metrics[0]["local"]["accuracy"] is not None


def test_weights_that_nobody_posted_start_no_job(hospitals: Space) -> None:
    """A plan that names weights the AI provider does not have is refused before any hospital hears of it."""
    with pytest.raises(OperatorError, match="initial weights"):
        hospitals.begin(hospitals.plan(PlanOptions(initial_weights="0" * 64)))
