"""The policy is asked once more when a model leaves its job, and no model leaves that one provider does not release."""

from pathlib import Path

from learning.jobs import JobState
from tests.support.federation import open_federation, school


def test_a_model_that_one_provider_keeps_is_released_to_nobody(tmp_path: Path) -> None:
    """A denial at release ends the job with its reason, although enough others took part in the last round."""
    with open_federation(tmp_path, 4) as federation:
        federation.members[
            school(1)
        ].keeps_model = "cohortFloor: asked fewer than 50, the offer allows only at least 50"
        job = federation.finish(federation.start())
    assert job.state is JobState.FAILED
    assert job.report is None
    assert job.reason is not None
    assert "the model may not be released" in job.reason
    assert "only at least 50" in job.reason
