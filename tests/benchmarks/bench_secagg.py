"""Secure sums: CPU by role, bytes and exactness, beside Flower's SecAgg+ and the floor that AES and memory set here.

Run ``make bench-secagg`` (it makes an environment for Flower), or ``python -m tests.benchmarks.bench_secagg`` with
``--quick`` for a minute's worth, ``--full`` for Flower's slow rows and the largest of ours with five seats too, where
a plan by default has three; ``--huge`` plays the two largest alone, and says how far they are: 200 and 500 CPU seconds,
on two cores half of that. Exits 3 when a bar is missed; without Flower the bar beside it counts as missed.
"""

import argparse
import dataclasses
import statistics
import sys
import time

from tests.benchmarks import MISSED_BAR
from tests.benchmarks.flower.beside import Flower, flower, installed
from tests.benchmarks.secagg_deaths import play_deaths
from tests.benchmarks.secagg_floor import Floor, measure_floor
from tests.benchmarks.secagg_run import Outcome, run
from tests.benchmarks.secagg_spread import Spread
from tests.benchmarks.secagg_stage import Shape
from tests.benchmarks.secagg_tables import (
    beside_head,
    beside_row,
    ours_head,
    ours_row,
    print_deaths,
    print_floor,
    print_parts,
)

CONTRIBUTOR_MS, AGGREGATOR_RATIO, UPLOAD_RATIO, FLOWER_RATIO, PEAK = 20.0, 2.0, 1.002, 12.0, 2e9
MAIN = Shape(n=100, d=1_000_000)
SINGLE = Shape(n=100, d=1_000_000, copies=1)
LARGEST = (
    Shape(n=50_000, d=10_000, leaves=100, seats=3, threshold=1, in_turn=False),
    Shape(n=100_000, d=100_000, leaves=200, seats=3, threshold=1, in_turn=False),
)
DROPOUTS = (0.0, 5.0, 10.0, 30.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beside:
    """Ours by default and with one copy, Flower's with 20 and 32 neighbours; bars are set on the first and third.

    Ours run before, between and after Flower's.
    """

    ours: Spread
    single: Spread
    listening: Flower | None
    lying: Flower | None


def main() -> int:
    """Print the tables; return 3 when a bar is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--huge", action="store_true")
    given = parser.parse_args()
    start = time.perf_counter()
    floor = measure_floor()
    print_floor(floor)
    if given.huge:
        return MISSED_BAR * (not _play_largest(floor))
    beside = _beside(floor, quick=given.quick, full=given.full)
    spread = [*beside.ours.outcomes, *beside.single.outcomes]
    rows = [*spread, *_large(floor, quick=given.quick, full=given.full)]
    print()
    print_parts(beside.ours.middle, floor)
    print()
    deaths = play_deaths(40 if given.quick else 400)
    print_deaths(deaths, MAIN.seats, MAIN.threshold)
    right = all(row.exact == row.completed and row.as_predicted == row.groups for row in deaths)
    exact = all(outcome.exact for outcome in rows) and right
    print(f"\n{time.perf_counter() - start:.0f} s")
    return MISSED_BAR * _judge(beside, floor, rows, exact=exact)


def _beside(floor: Floor, *, quick: bool, full: bool) -> Beside:
    """Run and print the rows that Flower can play too; return those that bars are set against."""
    print(
        "\nBeside Flower 1.41 SecAgg+, CPU seconds; its gRPC and protobuf are not counted. 32 neighbours and 22 shares"
    )
    print("of 33 stand against a server that lies, as ours do; 20 neighbours and 14 shares of 21 against one that only")
    print("listens. One copy: each vector is stored once, as Flower's server does; by default three seats store it.")
    beside_head()
    ours, single = Spread(shape=MAIN), Spread(shape=SINGLE)
    ours.run(2)
    single.run(1)
    theirs = _flower(MAIN)
    ours.run(2)
    single.run(1)
    lying = _flower(MAIN, stronger=True)
    ours.run(1)
    beside_row(ours.middle, lying)
    beside_row(ours.middle, theirs)
    beside_row(single.middle, theirs)
    for dropout in () if quick else DROPOUTS:
        shape = Shape(n=100, d=100_000, dropout=dropout)
        beside_row(run(shape), _flower(shape))
    if not quick:
        shape = Shape(n=1000, d=100_000, leaves=10)
        why = "not run: about four minutes; --full runs it"
        beside_row(run(shape), _flower(shape, seconds=900) if full else why)
    print("\nOurs, CPU seconds of all seats together; memory of the contributors' process and of the seats'")
    ours_head()
    for outcome in (*ours.outcomes, single.middle):
        ours_row(outcome, floor)
    flowers = [found if isinstance(found, Flower) else None for found in (theirs, lying)]
    return Beside(ours=ours, single=single, listening=flowers[0], lying=flowers[1])


def _flower(shape: Shape, seconds: float = 180.0, *, stronger: bool = False) -> Flower | str:
    if not installed():
        return "is not installed: make bench-secagg"
    found = flower(shape.n, shape.d, shape.dropout, stronger=stronger, seconds=seconds)
    return found or f"not finished in {seconds:g} s"


def _play_largest(floor: Floor) -> bool:
    """Run and print the two largest rows; return whether both are exact, with little memory."""
    ours_head()
    good = True
    for shape in LARGEST:
        found = run(shape)
        ours_row(found, floor)
        good &= found.exact and max(found.contributor_peak, found.seats_peak) < PEAK
    print(f"  exact, and every process below {PEAK / 1e9:g} GB: {'met' if good else 'MISSED'}")
    return good


def _large(floor: Floor, *, quick: bool, full: bool) -> list[Outcome]:
    """Run and print the rows that only we play."""
    shapes = [
        Shape(n=100, d=1_000_000, dropout=30.0),
        Shape(n=100, d=10_000_000, leaves=10, in_turn=False),
        Shape(n=1000, d=1_000_000, leaves=10, in_turn=False),
        *LARGEST,
    ]
    if quick:
        shapes = [Shape(n=400, d=10_000, leaves=8, in_turn=False)]
    if full:
        shapes.append(Shape(n=50_000, d=10_000, leaves=100, in_turn=False))
        shapes.append(Shape(n=100_000, d=100_000, leaves=200, in_turn=False))
    found = []
    for shape in shapes:
        found.append(run(shape))
        ours_row(found[-1], floor)
    return found


def _judge(beside: Beside, floor: Floor, large: list[Outcome], *, exact: bool) -> bool:
    """Print every bar, and return whether one is missed."""
    ours, single = beside.ours, beside.single
    peak = max(max(outcome.contributor_peak, outcome.seats_peak) for outcome in large)
    ratio = _times(beside.listening, ours)
    side, upload = statistics.median(ours.sides), ours.middle.upload_ratio
    bars = [
        ("total CPU, Flower (20) / ours", f"{ratio:.1f}", f">= {FLOWER_RATIO:g}", ratio >= FLOWER_RATIO),
        ("seats and collector / floor", f"{side:.2f}", f"<= {AGGREGATOR_RATIO:g}", side <= AGGREGATOR_RATIO),
        ("upload / float32", f"{upload:.5f}", f"<= {UPLOAD_RATIO:g}", upload <= UPLOAD_RATIO),
        (
            "contributor, median",
            f"{ours.contributor * 1e3:.1f} ms",
            f"<= {CONTRIBUTOR_MS:g} ms",
            ours.contributor * 1e3 <= CONTRIBUTOR_MS,
        ),
        ("largest process", f"{peak / 1e9:.2f} GB", f"< {PEAK / 1e9:g} GB", peak < PEAK),
        ("every sum exact", "yes" if exact else "NO", "bit for bit", exact),
    ]
    print(
        f"Bars at n=100, d=1e6, (5,2), over {len(ours.outcomes)} runs around Flower's: mean of the totals, median of the"
    )
    print(
        "seats' and collector's CPU over the floor measured just before and after; memory and exactness over all rows"
    )
    for name, value, bar, met in bars:
        print(f"  {name:<32}{value:>10}  {bar:<12} {'met' if met else 'MISSED'}")
    print("Without a bar: ", end="")
    print(f"total CPU, Flower (32) / ours {_times(beside.lying, ours):.1f}, ", end="")
    print(f"Flower (20) / ours with one copy {_times(beside.listening, single):.1f}; ", end="")
    print(f"seats and collector / floor with one copy {statistics.median(single.sides):.2f}:")
    print("the first carrier compares a vector's digest with the signed one as it comes, and the floor has no hash.")
    return not all(met for *_, met in bars)


def _times(flower: Flower | None, ours: Spread) -> float:
    return flower.total / ours.total if flower else 0.0


if __name__ == "__main__":
    sys.exit(main())
