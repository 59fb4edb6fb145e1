"""A training job beside the same plan in a bare loop, round by round, and where the rest of the time goes.

Run: ``python -m tests.benchmarks.bench_job [--sizes 0.1 2 10]``. One AI provider and three schools, every process real, star
secure aggregation over three seats, SQLite, loopback. The yardstick is the bare loop with a process per provider: it
trains as fast as this machine's cores can. A shared core's own speed drifts by half within a minute, so short jobs and
short bare loops take turns, and the lower quartiles of their rounds are compared. Exits 3 when a bar is missed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import MISSED_BAR
from tests.benchmarks.job_stage import JobRun, Space, data_space
from tests.benchmarks.job_tables import Row, breakdown, headline, lower_quartile

_BAR, _BAR_FROM, _SANDBOX_SECONDS = 0.15, 2.0, 0.1
# Bare rounds in one process; jobs; rounds of each job and of each bare loop beside it.
_ROUNDS = {0.1: (12, 4, 12), 2.0: (3, 12, 4), 10.0: (1, 8, 1)}


def main() -> int:
    """Print the tables; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 2.0, 10.0])
    parser.add_argument("--repeats", type=int, help="jobs of each size, a bare loop before and after each")
    parser.add_argument("--warm", type=int, default=1, help="rounds that are not counted at the beginning of a job")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="orchard-bench-") as name, data_space(Path(name)) as space:
        bare = Path(name) / "bare"
        pace = _pace(space, bare)
        rows = []
        for size in options.sizes:
            print(f"rounds of about {size:g} s, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
            rows.append(_measure(space, bare, size, pace, options))
    print(
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; more than the job itself makes figures larger\n"
    )
    print(headline(rows) + "\n")
    print(breakdown(rows))
    late = [row for row in rows if row.size >= _BAR_FROM and row.over > _BAR]
    shut = [row for row in rows if row.parts["  its sandbox"] > _SANDBOX_SECONDS]
    print(
        f"bar: at most {_BAR:.0%} over the bare loop with a process per provider, for rounds from {_BAR_FROM:g} s up",
        end="",
    )
    print(
        f"{': missed' if late else ''}; at most {_SANDBOX_SECONDS:g} s a step for its sandbox{': missed' if shut else ''}"
    )
    return MISSED_BAR * bool(late or shut)


def _pace(space: Space, folder: Path) -> float:
    """Return the seconds that one minibatch a provider adds to a bare round with a process per provider."""
    few, many = 50, 2050
    seconds = [
        statistics.median(wall for wall, _ in _bare(space, folder, steps, "together", 5)) for steps in (few, many)
    ]
    return (seconds[1] - seconds[0]) / (many - few)


def _measure(space: Space, folder: Path, size: float, pace: float, options: argparse.Namespace) -> Row:
    steps = max(1, round(size / pace))
    # What a minibatch costs depends on how long one trains; the bar is about rounds of this length, measured likewise.
    trial = [wall for _ in range(2) for wall, _ in _bare(space, folder, steps, "together", 3)]
    steps = max(1, round(steps * size / lower_quartile(trial)))
    alone_rounds, repeats, rounds = _ROUNDS.get(size, (3, 4, max(1, math.ceil(6 / size))))
    together = list(_bare(space, folder, steps, "together", rounds))
    jobs: list[JobRun] = []
    for _ in range(options.repeats or repeats):
        jobs.append(space.run(space.plan(steps=steps, rounds=rounds + options.warm), warm=options.warm))
        together += _bare(space, folder, steps, "together", rounds)
    alone = _bare(space, folder, steps, "alone", alone_rounds)
    return Row.of(size=size, steps=steps, alone=alone, together=together, jobs=jobs, warm=options.warm)


def _bare(space: Space, folder: Path, steps: int, how: str, rounds: int) -> Sequence[tuple[float, float]]:
    place = space.write_bare(folder, space.plan(steps=steps, rounds=rounds))
    command = [sys.executable, "-m", "tests.benchmarks.bare_rounds", str(place), how, str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [(wall, cpu) for wall, cpu in json.loads(done.stdout)]


if __name__ == "__main__":
    sys.exit(main())
