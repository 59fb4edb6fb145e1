"""Jobs that cannot go on: each ends in a named state with a sentence that says whose doing it was, and has no result."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connector.demo.plans import PlanOptions
from connector.demo.stage import School
from tests.support.processes import ORCHARD
from tests.support.schools import small_schools
from tests.support.stage import Space, kill, space

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

_ENDS = ("COMPLETED", "FAILED", "CANCELLED")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    folder = tmp_path_factory.mktemp("jobs")
    with space(folder / "space", data=small_schools(folder / "data")) as running:
        yield running


def ended(federation: Space, job_id: str) -> dict[str, Any]:
    """Return the job at its end, however it ends."""
    return federation.when(job_id, lambda job: job["state"] in _ENDS, 90)


def no_result(federation: Space, job_id: str, folder: Path) -> None:
    """Check that the operator's ``job fetch`` refuses in one sentence and writes nothing, and that providers let go."""
    command = [ORCHARD, "job", "fetch", federation.stage.ai.folder, job_id, "-o", folder / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "The job is FAILED" in done.stderr
    assert not (folder / "out").exists()


def fir(federation: Space) -> School:
    return next(school for school in federation.stage.schools if school.place.name == "School fir")


def test_too_few_consents(federation: Space, tmp_path: Path) -> None:
    """A job whose floor is not met says who it waits for, never how many, and ends when its time is over."""
    options = PlanOptions(rounds=2, min_contributors=3, cohort_floor=59, recruit_seconds=12)
    job = ended(federation, job_id := federation.begin(federation.plan(options)))
    assert job["state"] == "FAILED"
    assert "0 of 3 contributors needed remain" in job["reason"]
    assert "School fir: not ready after 12 s: waiting until enough learners consent" in job["reason"]
    assert "School fir waits until enough learners consent" in [line["text"] for line in job["timeline"]]
    no_result(federation, job_id, tmp_path)


@pytest.mark.parametrize(("minimum", "end"), [(3, "FAILED"), (2, "COMPLETED")])
def test_a_source_that_disappears(federation: Space, tmp_path: Path, minimum: int, end: str) -> None:
    """A provider whose source goes away says so; the job goes on where enough remain, and else ends with that reason."""
    file = federation.stage.data / "fir.csv"
    job_id = federation.begin(federation.plan(PlanOptions(rounds=8, min_contributors=minimum, seed=minimum)))
    federation.when(job_id, lambda job: any(one["round"] == 1 and one["state"] == "DONE" for one in job["rounds"]))
    kept = file.rename(tmp_path / "fir.csv")
    try:
        job = ended(federation, job_id)
    finally:
        kept.rename(file)
    assert job["state"] == end
    told = [
        line["text"] for line in job["timeline"] if "School fir could not contribute: source-missing" in line["text"]
    ]
    assert told
    assert str(federation.stage.data) not in " ".join(told)
    if end == "FAILED":
        assert "3 needed (source-missing" in job["reason"]
        no_result(federation, job_id, tmp_path)
    else:
        assert {len(one["contributors"]) for one in job["rounds"]} == {2, 3}


def test_a_plan_that_a_provider_refuses(federation: Space, tmp_path: Path) -> None:
    """A provider's operator refuses with a reason; the job ends at once, and its owner reads who refused and why."""
    school = fir(federation)
    settings = school.place.folder / "orchard.toml"
    settings.write_text(settings.read_text().replace('approval = "automatic"', 'approval = "manual"'))
    kill(federation.running.apis[school.place.slug])
    federation.start_api(school.place)
    job_id = federation.begin(federation.plan(PlanOptions(rounds=2, min_contributors=3, seed=11)))
    command = [ORCHARD, "plan", "refuse", school.place.folder, "--reason", "we do not grade by hours"]
    deadline = time.monotonic() + 30
    while subprocess.run(command, capture_output=True, check=False, timeout=30).returncode != 0:
        assert time.monotonic() < deadline
    job = ended(federation, job_id)
    assert job["state"] == "FAILED"
    assert "School fir: refused the plan: we do not grade by hours" in job["reason"]
    no_result(federation, job_id, tmp_path)
