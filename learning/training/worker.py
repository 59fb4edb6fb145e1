"""The sandbox's inside: ``python -m learning.training.worker STEP_DIR OUT_DIR``, or a fork of a preloaded process."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from learning.metrics import local_metrics
from learning.models import Dkt, LogisticRegression, Mlp, ModelSpec, initial_weights
from learning.steps import LocalTraining
from learning.training.batches import read_examples
from learning.training.fitting import warm
from learning.training.step import Arrays, read_step, run_step, settle

_ARGUMENTS = 2


def run(step_dir: Path, out_dir: Path) -> None:
    """Run the step in ``step_dir`` and write ``out.safetensors`` into ``out_dir``; raises as `run_step`."""
    run_step(read_step(step_dir), step_dir, out_dir)


def preload() -> None:
    """Get torch ready to be forked: one thread, deterministic, one step with each optimiser and model kind behind it."""
    settle()
    table: Arrays = {"X": np.zeros((2, 2), np.float32), "y": np.array([0, 1], np.uint8), "split": np.zeros(2, np.uint8)}
    answers: Arrays = {
        "offsets": np.array([0, 3]),
        "skill_offsets": np.arange(4),
        "skills": np.zeros(3, np.int32),
        "correct": np.array([0, 1, 1], np.uint8),
        "split": np.zeros(1, np.uint8),
    }
    local = LocalTraining(optimiser="sgd", learning_rate=0.1, batch_size=2, steps=1, clip_norm=1.0, proximal_mu=0.1)
    specs: tuple[ModelSpec, ...] = (
        LogisticRegression(inputs=2),
        Mlp(inputs=2, hidden=(2,)),
        Dkt(skills=2, embedding=2, hidden=2),
    )
    for spec in specs:
        arrays = answers if isinstance(spec, Dkt) else table
        warm(spec, initial_weights(spec, seed=0), read_examples(spec, arrays), local)
    # Of no rows, too: numpy imports more for those, which each fork would do again.
    for rows in (0, 2):
        local_metrics(np.zeros(rows, np.float32), np.zeros(rows, np.float32))


def main(argv: Sequence[str]) -> int:
    """Run one step in this process; 0 when the result is written, 2 when the arguments are wrong.

    A failure prints the error's code, never its text: messages could carry values of the data.
    """
    if len(argv) != _ARGUMENTS:
        sys.stderr.write("usage: python -m learning.training.worker STEP_DIR OUT_DIR\n")
        return 2
    try:
        run(Path(argv[0]), Path(argv[1]))
    except Exception as error:  # noqa: BLE001 - a traceback could carry values of the data out of the sandbox
        sys.stderr.write(f"{getattr(error, 'code', 'step_failed')}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
