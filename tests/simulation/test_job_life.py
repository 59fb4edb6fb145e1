"""Whole jobs between real nodes: what the collector learns, who is in it, and how every job ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from learning.jobs import JobState
from tests.support.federation import Federation, open_federation


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Federation]:
    """Give a collector and three schools."""
    with open_federation(tmp_path, 3) as federation:
        yield federation


def test_a_job_completes_and_everybody_hears(three: Federation) -> None:
    """Three schools train two rounds, the report is signed, every part ends, every transfer is completed."""
    job = three.finish(three.start())
    assert (job.state, job.reason) == (JobState.COMPLETED, None)
    assert job.report is not None
    assert {member.part(job.job_id).state for member in three.schools()} == {"ENDED"}
    assert {transfer["state"] for transfer in three.transfers.values()} == {"COMPLETED"}
    assert [error for member in three.members.values() for error in member.errors] == []
