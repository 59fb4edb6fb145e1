"""kill -9 in a round over an execution tree: of a seat, of an inner seat, of the coordinator; the same bytes come out."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from connector.demo.participants import Place
from connector.demo.plans import PlanOptions
from connector.identity.membership import did_web
from learning.plans import Aggregation
from learning.rounds import RoundState, Step, StepState
from tests.support.stage import Space, kill, read_records, space

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone]

ROUNDS, HIT = 2, 2
TREE = Aggregation(mode="tree", seats=4, threshold=1)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """Run one AI provider and five schools."""
    with space(tmp_path_factory.mktemp("t"), count=5) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(five: Space) -> bytes:
    """Return the final weights of the plan when nothing goes wrong."""
    _, weights = five.run(plan(five))
    return weights


def plan(five: Space) -> dict[str, Any]:
    """Return a plan whose steps train for about a second, over a tree of four seats a group."""
    options = PlanOptions(rounds=ROUNDS, seed=3, baseline=False, min_contributors=5, aggregation=TREE)
    payload = five.plan(options)
    return {**payload, "local": {**payload["local"], "epochs": 8}}


def holders(five: Space, job_id: str) -> tuple[Place, Place]:
    """Return who holds a leaf's seat and none above, and who holds a seat of the top."""
    groups = five.ai.get(f"/management/jobs/{job_id}/tree")["groups"]
    places = {did_web(school.place.address): school.place for school in five.stage.schools}
    top = set(groups[0]["seats"])
    leaf = next(seat for group in groups if group["leaf"] for seat in group["seats"] if seat not in top)
    return places[leaf], places[groups[0]["seats"][0]]


def restart(five: Space, place: Place) -> None:
    """Kill both processes of a participant, and start them again."""
    kill(five.running.apis[place.slug])
    kill(five.running.workers[place.slug])
    five.start_api(place)
    five.start_worker(place)


def kill_a_seat(five: Space, job_id: str) -> None:
    """Kill whoever holds a seat in a leaf group."""
    restart(five, holders(five, job_id)[0])


def kill_an_inner_seat(five: Space, job_id: str) -> None:
    """Kill whoever holds a seat in the top group."""
    restart(five, holders(five, job_id)[1])


def kill_the_coordinator(five: Space, _job_id: str) -> None:
    """Kill the AI provider."""
    restart(five, five.stage.ai)


def wait_for_training(five: Space, job_id: str) -> None:
    """Return while round ``HIT`` is open and the first school's step is at it or just done."""
    deadline = time.monotonic() + 180
    while True:
        row = five.under_way(job_id, HIT)
        steps = read_records(five.stage.schools[0].place, Step, job_id)
        begun = (StepState.TRAINING, StepState.UPLOADING)
        if row is not None and any(step.round == HIT and step.state in begun for step in steps):
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("strike", [kill_a_seat, kill_an_inner_seat, kill_the_coordinator])
def test_a_killed_node_of_the_tree_changes_no_bit(
    five: Space, undisturbed: bytes, strike: Callable[[Space, str], None]
) -> None:
    """Killed in the middle of a round and started again, the job completes with the bytes of an undisturbed one."""
    job_id = five.begin(plan(five))
    wait_for_training(five, job_id)
    strike(five, job_id)
    job = five.end(job_id, 240.0)
    assert five.model(job_id) == undisturbed
    rounds = [row for row in job["rounds"] if row["state"] == RoundState.DONE]
    assert [row["round"] for row in rounds] == list(range(1, ROUNDS + 2))
    assert all(len(row["contributors"]) == len(five.stage.schools) for row in rounds)
