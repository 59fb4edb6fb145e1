"""kill -9 of any one process in the middle of a round: started again, the job ends in the same bytes."""

import time
from collections.abc import Callable

import pytest

from connector.demo.plans import PlanOptions
from learning.rounds import RoundState, Step, StepState
from tests.support.stage import Space, kill, read_records

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

ROUNDS = 3
HIT = 2


@pytest.fixture(scope="module")
def undisturbed(schools: Space) -> bytes:
    """Return the final weights of the plan when nothing goes wrong."""
    _, weights = schools.run(plan(schools))
    return weights


def plan(schools: Space) -> dict[str, object]:
    """Return a plan whose steps train for about a second, so that a kill finds them at it."""
    options = PlanOptions(rounds=ROUNDS, seed=3, baseline=False, min_contributors=3)
    payload = schools.plan(options)
    return {**payload, "local": {**payload["local"], "epochs": 8}}


def kill_a_worker(schools: Space) -> None:
    """Kill the worker of the largest school; its sandboxed step dies or is forgotten with it."""
    place = schools.stage.schools[0].place
    kill(schools.running.workers[place.slug])
    schools.start_worker(place)


def kill_a_schools_api(schools: Space) -> None:
    """Kill the API process of a school."""
    place = schools.stage.schools[1].place
    kill(schools.running.apis[place.slug])
    schools.start_api(place)


def kill_the_collectors_api(schools: Space) -> None:
    """Kill the API process of the AI provider."""
    kill(schools.running.apis[schools.stage.ai.slug])
    schools.start_api(schools.stage.ai)


def kill_the_collectors_worker(schools: Space) -> None:
    """Kill the worker of the AI provider."""
    kill(schools.running.workers[schools.stage.ai.slug])
    schools.start_worker(schools.stage.ai)


def kill_the_broker(schools: Space) -> None:
    """Kill the broker that every participant rings through."""
    kill(schools.running.broker)
    schools.start_broker()


def wait_for_training(schools: Space, job_id: str) -> None:
    """Return while round ``HIT`` is open and the first school's step is at it."""
    deadline = time.monotonic() + 90
    while True:
        row = schools.under_way(job_id, HIT)
        steps = read_records(schools.stage.schools[0].place, Step, job_id)
        if row is not None and any(step.round == HIT and step.state is StepState.TRAINING for step in steps):
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "strike",
    [kill_a_worker, kill_a_schools_api, kill_the_collectors_api, kill_the_collectors_worker, kill_the_broker],
)
def test_a_killed_process_costs_time_and_no_bit(
    schools: Space, undisturbed: bytes, strike: Callable[[Space], None]
) -> None:
    """Killed in the middle of round 2 and started again, the job completes with the bytes of an undisturbed one."""
    job_id = schools.begin(plan(schools))
    wait_for_training(schools, job_id)
    strike(schools)
    job = schools.end(job_id)
    assert schools.model(job_id) == undisturbed
    rounds = [row for row in job["rounds"] if row["state"] == RoundState.DONE]
    assert [row["round"] for row in rounds] == list(range(1, ROUNDS + 2))
    assert all(len(row["contributors"]) == len(schools.stage.schools) for row in rounds)
