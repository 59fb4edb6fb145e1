"""Federated training without the house: one process, no contracts, no network, no secure sums.

It is the floor that `make bench` measures a job's overhead against, and the ceiling for accuracy. Run as a program it
trains knowledge tracing on the ASSISTments 2009 schools (``python -m tests.benchmarks.bare_loop --help``).
"""

import argparse
import csv
import gzip
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from learning.metrics import Sums, exact_auc, pack_metrics, summarise, unpack_metrics
from learning.models import Dkt, ModelSpec, Weights, flatten, initial_weights, unflatten
from learning.splits import TEST, fold_split
from learning.steps import LocalTraining, Step
from learning.strategies import FedAdam, Strategy, apply, initial_state
from learning.training.batches import read_examples
from learning.training.fitting import score
from learning.training.networks import build
from learning.training.step import Arrays, compute

# Skill indexes of the data set run from 1 to 110.
_SKILLS = 111
_FEWEST_LEARNERS, _FEWEST_ANSWERS, _SMALL = 10, 300, 5_000


@dataclass(frozen=True, kw_only=True)
class BareRound:
    """One round: wall-clock seconds, and the summary per split of the weights it started from."""

    seconds: float
    summary: Mapping[str, Mapping[str, float | int | None]]


@dataclass(frozen=True, kw_only=True)
class BareRun:
    """The last weights, the best ones by pooled validation AUC, and every round."""

    weights: Weights
    best: Weights
    rounds: Sequence[BareRound]


def run_bare_loop(
    model: ModelSpec,
    start: Weights,
    data: Sequence[Arrays],
    local: LocalTraining,
    strategy: Strategy,
    *,
    rounds: int,
    seed: int,
    small: Sequence[bool] = (),
    splits: tuple[str, ...] = ("valid", "test"),
    say: Callable[[str], None] = lambda line: None,
) -> BareRun:
    """Train over ``data`` (one snapshot a provider), updates weighted by training rows."""
    weights, best, best_auc = start, start, -1.0
    state = initial_state(strategy, flatten(model, start).size)
    history: list[BareRound] = []
    for number in range(rounds):
        began = time.perf_counter()
        total = np.zeros(flatten(model, weights).size)
        rows = 0
        sums = pack_metrics({}, splits)
        for place, arrays in enumerate(data):
            own_seed = (seed * 10_000 + number) * 1_000 + place
            is_small = bool(small) and small[place]
            step = Step(mode="train", model=model, local=local, seed=own_seed, splits=splits, small=is_small)
            result = compute(step, weights, arrays)
            rows += int(result["train_rows"][0])
            total += result["delta"].astype(np.float64) * int(result["train_rows"][0])
            sums += pack_metrics(metrics_of(result, splits), splits)
        summary = {split: summarise(values) for split, values in unpack_metrics(sums, splits).items()}
        auc = summary.get("valid", {}).get("auc") or 0.0
        if auc > best_auc:
            best, best_auc = weights, auc
        flat, state = apply(strategy, flatten(model, weights), total / max(rows, 1), state)
        weights = unflatten(model, flat)
        history.append(BareRound(seconds=time.perf_counter() - began, summary=summary))
        say(f"round {number + 1}: {history[-1].seconds:.2f} s, validation AUC before it {auc:.4f}")
    return BareRun(weights=weights, best=best, rounds=history)


def metrics_of(result: Arrays, splits: Sequence[str]) -> dict[str, Sums]:
    """Return the metric sums of a step's output by split."""
    prefix = "metrics."
    named = {name.removeprefix(prefix): array for name, array in result.items() if name.startswith(prefix)}
    return {
        split: {name.split(".")[1]: array for name, array in named.items() if name.startswith(f"{split}.")}
        for split in splits
    }


def read_schools(folder: Path, fold: int) -> dict[str, Arrays]:
    """Return the snapshots of the schools with at least 10 learners and 300 answers, biggest first; 3/1/2 fifths."""
    schools: dict[str, dict[str, list[tuple[int, list[int], int]]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(folder / "interactions.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            if row["school_id"]:
                answer = (int(row["step"]), [int(skill) for skill in row["skills"].split("|")], int(row["correct"]))
                schools[row["school_id"]][row["user_id"]].append(answer)
    snapshots = {name: _snapshot(learners, name, fold) for name, learners in schools.items()}
    usable = {
        name: arrays
        for name, arrays in snapshots.items()
        if len(arrays["split"]) >= _FEWEST_LEARNERS and len(arrays["correct"]) >= _FEWEST_ANSWERS
    }
    return dict(sorted(usable.items(), key=lambda item: -len(item[1]["correct"])))


def _snapshot(learners: Mapping[str, list[tuple[int, list[int], int]]], school: str, fold: int) -> Arrays:
    keys = sorted(learners)
    answers = [answer for key in keys for answer in sorted(learners[key])]
    return {
        "offsets": np.cumsum([0, *(len(learners[key]) for key in keys)]),
        "skill_offsets": np.cumsum([0, *(len(skills) for _, skills, _ in answers)]),
        "skills": np.array([skill for _, skills, _ in answers for skill in skills], dtype=np.int32),
        "correct": np.array([correct for _, _, correct in answers], dtype=np.uint8),
        "split": fold_split(keys, folds=5, test_fold=fold, salt=school),
    }


def exact_test_aucs(model: ModelSpec, weights: Sequence[Weights], data: Sequence[Arrays]) -> dict[str, float]:
    """Return exact pooled, macro, big-school and small-school test AUC; one set of weights a school."""
    scored = []
    for own, arrays in zip(weights, data, strict=True):
        scores, labels, _ = score(build(model, own), read_examples(model, arrays), TEST)
        scored.append((scores, labels, len(arrays["correct"]) <= _SMALL))
    pooled = exact_auc(np.concatenate([entry[0] for entry in scored]), np.concatenate([entry[1] for entry in scored]))
    single = [(exact_auc(scores, labels), small) for scores, labels, small in scored]
    groups = {
        "macro": [auc for auc, _ in single if auc is not None],
        "big": [auc for auc, small in single if auc is not None and not small],
        "small": [auc for auc, small in single if auc is not None and small],
    }
    means = {name: float(np.mean(values)) for name, values in groups.items() if values}
    return {**means, "pooled": float("nan") if pooled is None else pooled}


def main() -> None:
    """Print federated and, if asked for, local-only and fine-tuned AUC on the schools, fold by fold."""
    arguments = _arguments()
    model = Dkt(skills=_SKILLS, embedding=32, hidden=64)
    client = LocalTraining(optimiser="sgd", learning_rate=0.5, batch_size=32, epochs=1, clip_norm=1.0)
    own = LocalTraining(optimiser="adam", learning_rate=3e-3, batch_size=32, epochs=1, clip_norm=1.0)
    for fold in arguments.folds:
        data = list(read_schools(arguments.data, fold).values())
        small = [len(arrays["correct"]) <= _SMALL for arrays in data]
        start = initial_weights(model, seed=fold)
        strategy = FedAdam(learning_rate=0.01)
        run = run_bare_loop(
            model, start, data, client, strategy, rounds=arguments.rounds, seed=fold, small=small, say=_say(arguments)
        )
        seconds = [entry.seconds for entry in run.rounds]
        _line(fold, f"last, {np.mean(seconds):.2f} s a round", exact_test_aucs(model, [run.weights] * len(data), data))
        _line(fold, "best by validation", exact_test_aucs(model, [run.best] * len(data), data))
        if arguments.alone:
            baseline = Step(mode="baseline", model=model, local=own, seed=fold)
            finetune = replace(baseline, mode="finetune", local=replace(own, learning_rate=1e-3), max_epochs=6)
            for step, given in ((baseline, start), (finetune, run.best)):
                weights = [unflatten(model, compute(step, given, arrays)["weights"]) for arrays in data]
                _line(fold, step.mode, exact_test_aucs(model, weights, data))


def _say(arguments: argparse.Namespace) -> Callable[[str], None]:
    return print if arguments.verbose else lambda line: None


def _line(fold: int, name: str, aucs: Mapping[str, float]) -> None:
    columns = "  ".join(f"{key} {aucs[key]:.4f}" for key in ("pooled", "macro", "big", "small") if key in aucs)
    print(f"fold {fold}  {columns}  {name}", flush=True)


def _arguments() -> argparse.Namespace:
    root = Path(os.environ.get("ORCHARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
    parser = argparse.ArgumentParser(description="bare federated knowledge tracing on the ASSISTments 2009 schools")
    parser.add_argument("--data", type=Path, default=root / "assist2009-schools")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--alone", action="store_true", help="also train each school alone, and fine-tune")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
