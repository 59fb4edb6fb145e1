"""Learners as contributors: how many of them train a second on one core, side by side and one by one.

Run: ``python -m tests.benchmarks.bench_learners``. Each learner trains its own copy of the weights on its own rows; the
step is the one that runs in the sandbox, without the sandbox. Exits 3 when a bar is missed.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.models import Dkt, LogisticRegression, Mlp, ModelSpec, initial_weights, parameter_count
from learning.steps import LocalTraining, Step, learner_seed
from learning.training.batches import read_examples
from learning.training.fitting import train
from learning.training.step import compute, settle
from tests.benchmarks import MISSED_BAR

Arrays = dict[str, NDArray[Any]]
_LEARNERS, _BAR, _BAR_PARAMETERS = 1000, 1000.0, 10_000
_ROWS, _ANSWERS, _SKILLS = 8, 60, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model, what its learners have, and whether the bar is meant for it."""

    name: str
    spec: ModelSpec
    local: LocalTraining
    arrays: Callable[[int], Arrays]
    barred: bool = False


def _rows(inputs: int) -> Callable[[int], Arrays]:
    def make(learners: int) -> Arrays:
        generator = np.random.Generator(np.random.PCG64(1))
        count = learners * _ROWS
        return {
            "X": generator.standard_normal((count, inputs)).astype(np.float32),
            "y": generator.integers(0, 2, count).astype(np.uint8),
            "split": np.zeros(count, dtype=np.uint8),
            "learner": np.repeat(np.arange(learners), _ROWS).astype(np.int32),
        }

    return make


def _answers(learners: int) -> Arrays:
    generator = np.random.Generator(np.random.PCG64(2))
    count = learners * _ANSWERS
    return {
        "offsets": np.arange(learners + 1) * _ANSWERS,
        "skill_offsets": np.arange(count + 1),
        "skills": generator.integers(0, _SKILLS, count).astype(np.int32),
        "correct": generator.integers(0, 2, count).astype(np.uint8),
        "split": np.zeros(learners, dtype=np.uint8),
    }


def _cases() -> list[Case]:
    sgd = LocalTraining(optimiser="sgd", learning_rate=0.1, batch_size=32, epochs=1, clip_norm=1.0)
    mlp = Mlp(inputs=100, hidden=(64, 54))
    return [
        Case(name="logistic-regression", spec=LogisticRegression(inputs=50), local=sgd, arrays=_rows(50)),
        Case(name="mlp, 8 rows", spec=mlp, local=sgd, arrays=_rows(100), barred=True),
        Case(
            name="mlp, 8 rows, 4 minibatches",
            spec=mlp,
            local=dataclasses.replace(sgd, batch_size=2),
            arrays=_rows(100),
        ),
        Case(name="dkt, 60 answers", spec=Dkt(skills=_SKILLS, embedding=20, hidden=32), local=sgd, arrays=_answers),
        Case(
            name="dkt of the demo, 60 answers",
            spec=Dkt(skills=_SKILLS, embedding=32, hidden=64),
            local=sgd,
            arrays=_answers,
        ),
    ]


def _side_by_side(case: Case, learners: int) -> float:
    step = Step(mode="train", model=case.spec, local=case.local, seed=1, splits=(), learners=learners)
    arrays, weights = case.arrays(learners), initial_weights(case.spec, seed=1)
    began = time.process_time()
    compute(step, weights, arrays)
    return time.process_time() - began


def _one_by_one(case: Case, learners: int) -> float:
    weights = initial_weights(case.spec, seed=1)
    alone = read_examples(case.spec, case.arrays(1))
    began = time.process_time()
    for learner in range(learners):
        train(case.spec, weights, alone, case.local, learner_seed(1, learner))
    return time.process_time() - began


def main() -> int:
    """Print the table; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learners", type=int, default=_LEARNERS)
    options = parser.parse_args()
    settle()
    print(
        f"learners trained per CPU second, one core; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    print(f"{'model':<30}{'parameters':>11}{'side by side':>14}{'one by one':>12}{'gain':>7}")
    missed = False
    for case in _cases():
        _side_by_side(case, 64)
        together = options.learners / statistics.median(_side_by_side(case, options.learners) for _ in range(3))
        alone = 100 / _one_by_one(case, 100)
        parameters = parameter_count(case.spec)
        print(f"{case.name:<30}{parameters:>11,}{together:>14,.0f}{alone:>12,.0f}{together / alone:>6.1f}x")
        missed |= case.barred and (together < _BAR or parameters < _BAR_PARAMETERS)
    print(f"\nbar: {_BAR:,.0f} learners of a {_BAR_PARAMETERS:,}-parameter model a second on one core (mlp, 8 rows)")
    return MISSED_BAR * missed


if __name__ == "__main__":
    sys.exit(main())
