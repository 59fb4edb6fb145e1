"""``orchard demo`` on real schools: a short run of the command that trains on sixteen of them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.data import shared_data
from tests.support.processes import ORCHARD

pytestmark = [pytest.mark.e2e, pytest.mark.alone]


def test_real_schools_train_together(tmp_path: Path) -> None:
    """Four real schools and a few rounds of FedAdam: a model, a report and a page, with local-only beside it."""
    arguments = ["--providers", "4", "--rounds", "3", "--strategy", "fedadam", "--json"]
    done = subprocess.run(
        [ORCHARD, "demo", "--data", shared_data("assist2009-schools"), *arguments, "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    said = json.loads(done.stdout)
    assert {path.name for path in Path(said["out"]).iterdir()} >= {"model.safetensors", "report.json", "report.html"}
    assert "fedadam" in json.dumps(report)
    assert 0.5 < said["final"]["test"]["auc"] < 1
    assert said["final"]["local"]["auc"] is not None
