"""How complete and how quick a round is while nodes die: ours beside the published strategies, under one cost model.

Run: ``make sim-failures`` or ``python -m tests.benchmarks.sim_failures [--quick] [--seeds N] [--rows 1,3]``. Exits 3 when
a bar is missed. The ten rows are those that Mirval's authors' simulator gave with its own parameters (SSDBM 2021, 2023):
completeness is the share of all contributors, the dead among them too, whose update is in the sum; latency is until the
collector has it. Theirs and ours: 512 or 4,096 contributors, as many seats as their 5-seat groups of 8 have and a fifth
more in reserve, 33 ms Rayleigh, 6 MB/s out of each node, 50 us per kB of vector work, 10 ms per asymmetric operation,
every node's end uniform over 100/rate seconds from the start.

Ours is the product's state machine (`learning.secagg.conduct`) and its real sums, on vectors of three values that count
as 1 MB or 16 MB. The masks of a round are drawn while the model trains, before the clock starts: nothing in them depends
on the update (`draw_mask`); the column "late" draws them afterwards. Every completed run is compared bit for bit with the
plain sum of those who are in it.
"""

import argparse
import dataclasses
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter

import numpy as np

from learning.secagg.packing import pack
from learning.shape import Costs, TreeShape, tree_shape
from tests.benchmarks import MISSED_BAR
from tests.simulation.sim_clock import Prices
from tests.simulation.sim_nodes import set_bytes
from tests.simulation.tree_simulator import Scene, World, clear_total

SHAPE = (5, 2)
N_MIN = 4
# Seats that store a vector: as many as a plan has by default with 4,096 contributors, two with 512.
COPIES, FEW_COPIES = SHAPE[0] - SHAPE[1], 2
_MB = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One row: what is simulated, what was published (completeness %, seconds), and our bars."""

    n: int
    megabytes: int
    rate: float
    published: tuple[tuple[float, float], ...]
    complete: float | None = None
    seconds: float | None = None


STRATEGIES = ("LowCost", "S&P", "HyBlock", "HighCmpl")
ROWS = (
    Row(n=512, megabytes=1, rate=0.0, published=((100, 3.53), (100, 3.63), (100, 3.56), (100, 3.53))),
    Row(n=512, megabytes=1, rate=0.25, published=((0, math.nan), (88.0, 3.55), (96.2, 3.80), (99.6, 3.86))),
    Row(n=512, megabytes=1, rate=0.6, published=((0, math.nan), (89.5, 3.57), (93.0, 3.83), (98.2, 4.63))),
    Row(
        n=512,
        megabytes=1,
        rate=0.8,
        published=((0, math.nan), (83.6, 3.60), (89.8, 3.96), (97.4, 4.96)),
        complete=99.5,
        seconds=3.5,
    ),
    Row(n=512, megabytes=1, rate=1.2, published=((0, math.nan), (70.5, 3.45), (84.7, 4.15), (92.9, 7.99))),
    Row(n=4096, megabytes=1, rate=0.25, published=((0, math.nan), (94.0, 4.23), (96.6, 5.32), (99.1, 7.03))),
    Row(n=4096, megabytes=1, rate=0.6, published=((0, math.nan), (90.9, 4.17), (92.5, 6.04), (31.9, 34.7))),
    Row(
        n=4096,
        megabytes=1,
        rate=0.8,
        published=((0, math.nan), (83.9, 4.13), (90.1, 5.51), (0.0, 28.1)),
        complete=99.0,
    ),
    Row(
        n=512,
        megabytes=16,
        rate=0.25,
        published=((0, math.nan), (29.7, 48.3), (56.7, 55.9), (8.5, 116)),
        complete=98.0,
    ),
    Row(n=512, megabytes=16, rate=0.8, published=((0, math.nan), (1.5, 33.9), (0.0, 37.2), (0.0, 37.3))),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One simulated round.

    Attributes:
        row: which.
        late: masks were drawn after the local step.
        complete: percent of the contributors that are in the sum.
        seconds: until the collector had it.
        dead: percent of all nodes that had ended by then.
        sent: bytes sent by all, in vectors for each contributor.
        exact: the sum is the plain one bit for bit, where there is one.
        reason: why there is none.
        silent: percent of the contributors that no seat had in time.
        grouped: percent whose upload was there, and was lost with a group.
        why: reason -> groups that were left out for it.
    """

    row: int
    late: bool
    complete: float
    seconds: float
    dead: float
    sent: float
    exact: bool
    reason: str | None
    silent: float
    grouped: float
    why: dict[str, int]


def workers_of(n: int) -> int:
    """Return the nodes that hold seats: five in each group of a tree of eights, and a fifth of that in reserve."""
    groups, level = 0, n // 8
    while level:
        groups, level = groups + level, level // 8
    return math.ceil(groups * SHAPE[0] * 1.2)


def shape_of(n: int, vector_bytes: int) -> TreeShape:
    """Return the tree that the cost model gives under the simulation's prices, with seats in reserve in each column."""
    prices = Prices()
    costs = Costs(
        latency=prices.latency,
        sending=1 / prices.bandwidth,
        receiving=0.0,
        mask=prices.per_byte,
        add=prices.per_byte,
        check=prices.asymmetric,
        # Seats that have their order work while the collector's line carries the others'.
        seat=set_bytes(8) / prices.bandwidth,
    )
    return tree_shape(
        n=n, d=vector_bytes // 4, k=32, shape=SHAPE, members=int(workers_of(n) * 0.97), n_min=N_MIN, costs=costs
    )


def deaths(row: Row, seed: int) -> dict[str, float]:
    """Return when each node ends."""
    if not row.rate:
        return {}
    names = [f"c{number:05d}" for number in range(row.n)] + [f"w{number:05d}" for number in range(workers_of(row.n))]
    ends = np.random.default_rng(seed + 1000).uniform(0, 100 / row.rate, len(names))
    return dict(zip(names, ends.tolist(), strict=True))


def simulate(task: tuple[int, int, bool]) -> Run:
    """Simulate one round of a row."""
    number, seed, late = task
    row = ROWS[number]
    shape = shape_of(row.n, row.megabytes * _MB)
    scene = Scene(
        contributors=row.n,
        workers=workers_of(row.n),
        leaves=shape.leaves,
        fan_out=shape.fan_out,
        shape=SHAPE,
        n_min=N_MIN,
        copies=COPIES if row.n > 1000 else FEW_COPIES,
        vector_bytes=row.megabytes * _MB,
        deaths=deaths(row, seed),
        seed=seed,
        late_masks=late,
        ping=0.1 if row.n < 1000 else 0.25,
    )
    world = World(scene)
    found = world.run()
    exact = found.total is None or bytes(pack(found.total, scene.k)) == bytes(clear_total(world, found.included))
    stored = sum(len(world.collector.facts[leaf].uploads or ()) for leaf in world.tree.leaves)
    return Run(
        row=number,
        late=late,
        complete=100 * len(found.included) / row.n,
        seconds=found.seconds,
        dead=100 * found.dead / (row.n + workers_of(row.n)),
        sent=found.bytes_sent / row.n / (row.megabytes * _MB),
        exact=exact,
        reason=found.reason,
        silent=100 - 100 * stored / row.n,
        grouped=100 * (stored - len(found.included)) / row.n,
        why=dict(_reasons(world)),
    )


def _reasons(world: World) -> Counter[str]:
    """Return why groups were left out, without the names of those whom it was about."""
    texts = [value.reason for value in world.collector.rounds.values() if value.reason is not None]
    plain = [re.sub(r"^group \S+: ", "", text) for text in texts]
    return Counter(re.sub(r"the vector of \S+", "a vector", re.sub(r"column \d+", "a column", text)) for text in plain)


def plan(rows: list[int], seeds: int, *, quick: bool) -> list[tuple[int, int, bool]]:
    """Return the rounds to simulate, the long ones first."""
    tasks = []
    for number in sorted(rows, key=lambda place: -ROWS[place].n):
        large = ROWS[number].n > 1000
        if large and quick:
            continue
        count = 1 if quick or not ROWS[number].rate else max(1, seeds // 5) if large else seeds
        tasks += [(number, seed, False) for seed in range(count)]
        if ROWS[number].complete is not None and not large:
            tasks += [(number, seed, True) for seed in range(1 if quick else max(1, seeds // 3))]
    return tasks


def cell(complete: float, seconds: float) -> str:
    """Return completeness and latency as they are printed."""
    return f"{complete:5.1f} ({seconds:5.2f})" if not math.isnan(seconds) else f"{complete:5.1f}        "


def main() -> int:
    """Print the table; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="rounds of each row of 512; a fifth of it for 4,096")
    parser.add_argument("--rows", default="", help="row numbers, from 1")
    parser.add_argument("--quick", action="store_true", help="one round of each row of 512")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    rows = [int(text) - 1 for text in options.rows.split(",") if text] or list(range(len(ROWS)))
    tasks = plan(rows, options.seeds, quick=options.quick)
    runs: list[Run] = []
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for run in pool.imap_unordered(simulate, tasks):
            runs.append(run)
            how = f"{run.complete:.1f} %, {run.seconds:.2f} s" if run.reason is None else run.reason
            spent = time.perf_counter() - start
            print(f"{spent:4.0f} s, {len(runs)} of {len(tasks)}: row {run.row + 1}, {how}", file=sys.stderr, flush=True)
    missed = table(rows, runs)
    wrong = [run for run in runs if not run.exact]
    print(
        f"\n{len(runs)} rounds, {sum(run.reason is None for run in runs)} with a sum, {len(wrong)} not bit for bit exact"
    )
    for line in missed:
        print(f"missed: {line}")
    return MISSED_BAR if missed or wrong else 0


def table(rows: list[int], runs: list[Run]) -> list[str]:
    """Print the rows; return what was missed."""
    missed = []
    print("completeness % (latency s)" + " " * 8 + "".join(f"{name:>16}" for name in STRATEGIES), end="")
    print(f"{'ours':>16}{'late masks':>16}  dead %  sent  tree")
    for number in rows:
        row = ROWS[number]
        own = [run for run in runs if run.row == number and not run.late]
        if not own:
            continue
        complete, seconds = _means(own)
        late = [run for run in runs if run.row == number and run.late]
        shape = shape_of(row.n, row.megabytes * _MB)
        label = f"{row.rate:4.2f} %/s, {row.n} x {row.megabytes} MB"
        print(f"{number + 1:2} {label:<31}" + "".join(f"{cell(*pair):>16}" for pair in row.published), end="")
        print(f"{cell(complete, seconds):>16}{cell(*_means(late)) if late else '':>16}", end="")
        dead, sent = statistics.fmean(run.dead for run in own), statistics.fmean(run.sent for run in own)
        print(f"  {dead:6.1f}  {sent:4.2f}  {shape.leaves} leaves, fan-out {shape.fan_out}; {len(own)} rounds")
        print(_lost(own))
        if row.complete is not None and complete < row.complete:
            missed.append(f"{label}: {complete:.2f} % complete, the bar is {row.complete} %")
        if row.seconds is not None and seconds > row.seconds:
            missed.append(f"{label}: {seconds:.2f} s, the bar is {row.seconds} s")
    return missed


def _lost(runs: list[Run]) -> str:
    """Return where the contributors went that are not in the sums."""
    silent, grouped = statistics.fmean(run.silent for run in runs), statistics.fmean(run.grouped for run in runs)
    whys = sum((Counter(run.why) for run in runs), Counter[str]())
    reasons = "; ".join(f"{why} ({times} times)" for why, times in whys.most_common(3))
    return f"   not in the sum: {silent:.1f} % not stored in time, {grouped:.1f} % with their group: {reasons or '-'}"


def _means(runs: list[Run]) -> tuple[float, float]:
    return statistics.fmean(run.complete for run in runs), statistics.fmean(run.seconds for run in runs)


if __name__ == "__main__":
    sys.exit(main())
