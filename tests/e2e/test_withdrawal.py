"""A learner withdraws while a model is being trained: from the next round on their rows are not read."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from connector.demo.learners import choose_leaver
from connector.demo.plans import PlanOptions
from connector.demo.stage import School
from learning.rounds import Step, StepState
from tests.support.stage import Space, read_records

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

AFTER = 2
ROUNDS = 4


def facts(school: School) -> Mapping[str, Any]:
    """Return what a school's worker wrote beside the one snapshot that it holds."""
    (found,) = (school.place.folder / "state" / "snapshots").glob("*/*/facts.json")
    read: Mapping[str, Any] = json.loads(found.read_text())
    return read


def answers_of(schools: Space, school: School, subject: str) -> int:
    """Return how many answers of a learner count: what the source says, without what it voided."""
    lines = (schools.stage.data / school.entry.name / "statements.jsonl").read_text().splitlines()
    statements = [json.loads(line) for line in lines]
    voided = {one["object"]["id"] for one in statements if one["verb"]["id"].endswith("/voided")}
    mine = [one for one in statements if one["actor"].get("account", {}).get("name") == subject]
    return sum(one["verb"]["id"].endswith("/answered") and one["id"] not in voided for one in mine)


def test_a_withdrawn_learners_rows_are_not_read_again(schools: Space) -> None:
    """After round 2 the snapshot shrinks by exactly that learner's rows, and their history ends with round 2."""
    # The smallest school is done with its step long before the largest one is.
    school = schools.stage.schools[-1]
    said = schools.consented[school.place.slug]
    leaver = choose_leaver(said.played)
    options = PlanOptions(rounds=ROUNDS, seed=9, baseline=False, min_contributors=3)
    payload = schools.plan(options)
    job_id = schools.begin({**payload, "local": {**payload["local"], "epochs": 8}})

    wait_for_step(schools, school, job_id, AFTER)
    before = facts(school)
    said.desk.withdraw(said.asked, leaver)
    assert schools.under_way(job_id, AFTER) is not None, "round 2 was over before the learner withdrew"
    wait_for_step(schools, school, job_id, AFTER + 1)
    after = facts(school)
    schools.end(job_id)

    assert before["subjects"] - after["subjects"] == 1
    assert before["rows"] - after["rows"] == answers_of(schools, school, leaver.subject) > 0
    header = {"authorization": said.desk._person(leaver)}
    answer = said.desk.client.request("GET", f"{said.desk.address}/consent/uses", audience=None, headers=header)
    # Other tests' jobs on this stage read this learner's rows, too.
    (use,) = [use for use in answer.json() if use["job_id"] == job_id]
    assert (use["first_round"], use["last_round"]) == (1, AFTER)


def wait_for_step(schools: Space, school: School, job_id: str, number: int) -> None:
    """Return once a school has done its own step of a round."""
    deadline = time.monotonic() + 60
    while not any(
        step.round == number and step.state is StepState.DONE for step in read_records(school.place, Step, job_id)
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
