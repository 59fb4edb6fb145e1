"""A plan's rounds without the house, timed: ``python -m tests.benchmarks.bare_rounds FOLDER alone|together ROUNDS``.

``FOLDER`` holds ``plan.json`` (a plan's payload) and one snapshot per provider, ``*.safetensors``. ``alone`` is the bare
loop: one process trains one provider's rows after another. ``together`` gives each provider a process of its own, which
is as fast as these cores can train; they exchange weights and updates through pipes. Prints a JSON list of
``[wall seconds, CPU seconds]``, one a round; a first round is not counted.
"""

import json
import multiprocessing
import os
import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from safetensors.numpy import load, load_file, save

from learning.models import flatten, initial_weights, load_weights, parse_model, save_weights, unflatten
from learning.plans import TrainingPlan, parse_plan
from learning.steps import Step, parse_local
from learning.strategies import apply, initial_state, parse_strategy
from learning.training.step import compute
from tests.benchmarks.bare_loop import run_bare_loop

_ARGUMENTS = 4


def main() -> int:
    """Run the rounds and print their times."""
    if len(sys.argv) != _ARGUMENTS or sys.argv[2] not in ("alone", "together"):
        print(__doc__, file=sys.stderr)
        return 2
    folder, rounds = Path(sys.argv[1]), int(sys.argv[3])
    plan = parse_plan(json.loads((folder / "plan.json").read_text()))
    files = sorted(folder.glob("*.safetensors"))
    print(json.dumps((_alone if sys.argv[2] == "alone" else _together)(plan, files, rounds)))
    return 0


def _alone(plan: TrainingPlan, files: list[Path], rounds: int) -> list[tuple[float, float]]:
    spec = parse_model(plan.model)
    start = initial_weights(spec, seed=plan.seed)
    data = [load_file(file) for file in files]
    local, strategy = parse_local(plan.local), parse_strategy(plan.strategy)
    marks: list[float] = []
    run = run_bare_loop(
        spec, start, data, local, strategy, rounds=rounds + 1, seed=plan.seed, say=lambda _: marks.append(_cpu())
    )
    wall = [entry.seconds for entry in run.rounds]
    return [(wall[number], marks[number] - marks[number - 1]) for number in range(1, rounds + 1)]


def _together(plan: TrainingPlan, files: list[Path], rounds: int) -> list[tuple[float, float]]:
    spec, strategy = parse_model(plan.model), parse_strategy(plan.strategy)
    context = multiprocessing.get_context("spawn")
    ends, workers = [], []
    for file in files:
        ours, theirs = context.Pipe()
        workers.append(context.Process(target=_train, args=(theirs, str(file.parent), file.name), daemon=True))
        workers[-1].start()
        ends.append(ours)
    weights = initial_weights(spec, seed=plan.seed)
    state = initial_state(strategy, flatten(spec, weights).size)
    found = []
    for number in range(rounds + 1):
        began, cpu = time.perf_counter(), sum(_cpu_of(worker.pid) for worker in workers) + _cpu()
        for end in ends:
            end.send_bytes(number.to_bytes(4) + save_weights(spec, weights))
        updates = [load(end.recv_bytes()) for end in ends]
        rows = [int(update["train_rows"][0]) for update in updates]
        total = sum(update["delta"].astype(np.float64) * count for update, count in zip(updates, rows, strict=True))
        flat, state = apply(strategy, flatten(spec, weights), np.asarray(total) / sum(rows), state)
        weights = unflatten(spec, flat)
        spent = sum(_cpu_of(worker.pid) for worker in workers) + _cpu() - cpu
        found.append((time.perf_counter() - began, spent))
    for worker in workers:
        worker.terminate()
    return found[1:]


def _train(end: Connection, folder: str, name: str) -> None:
    """Serve one provider's steps: weights in, update out, as safetensors bytes."""
    plan = parse_plan(json.loads((Path(folder) / "plan.json").read_text()))
    spec, arrays = parse_model(plan.model), load_file(Path(folder) / name)
    while True:
        message = end.recv_bytes()
        seed = plan.seed + int.from_bytes(message[:4])
        step = Step(mode="train", model=spec, local=parse_local(plan.local), seed=seed)
        result = compute(step, load_weights(spec, message[4:]), arrays)
        end.send_bytes(save({key: np.ascontiguousarray(value) for key, value in result.items()}))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
