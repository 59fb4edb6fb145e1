"""The central reference: what one model reaches over all rows in one place. Only a demo may make it, of its own data."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from connector.demo.stage import School, Stage
from connector.sources.opened import open_source
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location
from connector.trainer import SandboxTrainer, open_sandbox
from learning.metrics import summarise
from learning.models import initial_weights, parse_model, save_weights
from learning.plans import parse_plan
from learning.steps import Step, parse_local, parse_result, step_document

Arrays = dict[str, NDArray[Any]]
_SECONDS, _MEMORY_MB = 600.0, 8192


def central_reference(stage: Stage, plan_payload: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """Train the plan's model on the pooled rows of all schools, with early stopping, and return its test metrics.

    Rows are scaled by each school as in the job, so that only the pooling differs.
    """
    plan = parse_plan(plan_payload)
    spec = parse_model(plan.model)
    step = Step(
        mode="central",
        model=spec,
        local=parse_local(plan.evaluation.baseline_local or plan.local),
        seed=plan.seed,
        max_epochs=plan.evaluation.baseline_epochs,
    )
    with tempfile.TemporaryDirectory(dir=stage.root) as name:
        folder = Path(name)
        pooled = folder / "pooled.safetensors"
        save_file(pool([_arrays(stage, school, folder, parameters) for school in stage.schools]), pooled)
        sandbox = open_sandbox(folder, socket=stage.root / "fork.sock", require=True)
        trainer = SandboxTrainer(sandbox, folder / "steps", seconds=_SECONDS, memory_mb=_MEMORY_MB)
        weights = save_weights(spec, initial_weights(spec, seed=plan.seed))
        output = trainer.run(step_document(step), weights, pooled)
        sandbox.stop()
    return summarise(parse_result(step, output.data).metrics["test"])


def pool(parts: Sequence[Arrays]) -> Arrays:
    """Return the arrays of several snapshots (``learning.steps``) as those of one."""
    if "X" in parts[0]:
        return {name: np.concatenate([part[name] for part in parts]) for name in ("X", "y", "split")}
    whole = {name: np.concatenate([part[name] for part in parts]) for name in ("skills", "correct", "split")}
    for name in ("offsets", "skill_offsets"):
        starts = np.cumsum([0, *(part[name][-1] for part in parts)])
        pieces = [part[name][:-1] + start for part, start in zip(parts, starts, strict=False)]
        whole[name] = np.concatenate([*pieces, starts[-1:]])
    return whole


def _arrays(stage: Stage, school: School, folder: Path, parameters: dict[str, str]) -> Arrays:
    location = Location(folder=stage.data, parameters={**parameters, **school.entry.parameters})
    file = folder / f"{school.place.slug}.safetensors"
    build_snapshot(open_source(stage.view, location), None, lambda subject: subject, file)
    return load_file(file)
