"""Runs training steps in the sandbox (``learning.ports.Trainer``): a fresh step folder, one file out, nothing left."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connector.sandbox.ladder import RUNGS
from connector.sandbox.results import SandboxError
from connector.sandbox.sandbox import Sandbox
from learning.errors import StepFailedError
from learning.ports import SandboxOutput
from learning.steps import DATA_FILE, STEP_FILE, WEIGHTS_FILE

PRELOAD = "learning.training.worker"
# What may be gone at the next try; the rest is the step's own doing.
_PASSING = frozenset({"unavailable", "crash"})


class SandboxTrainer:
    """Prepares step folders below ``folder`` and runs them with fixed limits."""

    def __init__(self, sandbox: Sandbox, folder: Path, *, seconds: float, memory_mb: int) -> None:
        """Use ``folder`` (owner only) for step folders; limits are wall seconds and MiB over the loaded libraries."""
        self._sandbox = sandbox
        self._folder = folder
        self._seconds = seconds
        self._memory_mb = memory_mb
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def run(self, step: Mapping[str, Any], weights: bytes, snapshot: Path) -> SandboxOutput:
        """Run the step of a ``step.json`` object over a snapshot file.

        Raises:
            StepFailedError: what the sandbox saw; never data.
        """
        started = time.monotonic()
        place = self._folder / secrets.token_hex(8)
        inputs, output = place / "in", place / "out"
        inputs.mkdir(parents=True, mode=0o700)
        output.mkdir(mode=0o700)
        try:
            (inputs / STEP_FILE).write_text(json.dumps(step), encoding="utf-8")
            (inputs / WEIGHTS_FILE).write_bytes(weights)
            # The same inode under another name: no second copy of the rows, and the step sees only this folder.
            os.link(snapshot, inputs / DATA_FILE)
            result = self._sandbox.run(inputs, output, seconds=self._seconds, memory_mb=self._memory_mb)
            data = result.output.read_bytes()
        except SandboxError as error:
            raise StepFailedError(error.code, f"the sandbox: {error}", final=error.kind not in _PASSING) from error
        except FileNotFoundError as error:
            raise StepFailedError("snapshot-gone", "the snapshot of the rows is gone", final=False) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        cost = {
            "cpu_seconds": result.cpu_seconds,
            "wall_seconds": result.wall_seconds,
            "overhead_seconds": time.monotonic() - started - result.wall_seconds,
            "max_rss_bytes": float(result.max_rss_bytes),
        }
        return SandboxOutput(data=data, cost=cost)


def open_sandbox(folder: Path, *, socket: Path | None, require: bool) -> Sandbox:
    """Return the sandbox of a worker: its own fork server, or the shared one at ``socket``."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Sandbox(
        socket_path=socket or folder / "fork.sock",
        preload=PRELOAD,
        shared=socket is not None,
        require=frozenset(RUNGS) if require else frozenset(),
    )
