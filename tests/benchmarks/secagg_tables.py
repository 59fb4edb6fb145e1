"""The tables that ``bench_secagg`` prints."""

from collections import Counter

from tests.benchmarks.flower.beside import Flower
from tests.benchmarks.secagg_contributors import ROLE
from tests.benchmarks.secagg_deaths import Deaths
from tests.benchmarks.secagg_floor import Floor
from tests.benchmarks.secagg_run import Outcome
from tests.benchmarks.secagg_seats import ACCEPT, JSON, OPENS
from tests.benchmarks.secagg_stage import Shape

_GIB = 1 << 30


def count(number: int) -> str:
    """Return 1000000 as 1e6, and 50000 as 50k."""
    for power in (8, 7, 6, 5):
        if number == 10**power:
            return f"1e{power}"
    return f"{number // 1000}k" if number >= 10_000 and number % 1000 == 0 else str(number)


def floor_of(floor: Floor, shape: Shape) -> float:
    """Return the floor of the aggregators' CPU seconds for a row."""
    survivors = shape.n - len(shape.dead)
    return floor.seconds(survivors, shape.d, len(shape.group.table), shape.seats)


def print_floor(floor: Floor) -> None:
    """Print what this machine can do."""
    print("This machine, one core, best of nine:")
    print(f"  AES-128-CTR {floor.aes / 1e9:.2f} GB/s, with the addition {floor.fused / 1e9:.2f} GB/s,", end=" ")
    print(f"addition out of cache {floor.add / 1e9:.2f} GB/s, one HPKE box opened in {floor.opening * 1e6:.0f} us")
    print("  floor of seats and collector = 4 n d (S / AES and addition + 1 / addition) + n m HPKE openings")


def ours_head() -> None:
    """Print the head of the table of our rows."""
    print(
        f"{'n':>6} {'d':>6} {'m,t':>4} {'leaves':>6} {'copies':>6} {'drop':>5} | {'contrib.':>9} {'accept':>8} ", end=""
    )
    print(
        f"{'release':>8} {'inner':>7} {'collect':>7} {'floor':>7} {'x floor':>7} | {'total':>8} {'upload':>8} ", end=""
    )
    print(f"{'GiB c/s':>10} {'wall':>6} exact")


def ours_row(found: Outcome, floor: Floor) -> None:
    """Print one of our rows; CPU seconds, the contributor's in ms."""
    shape, least = found.shape, floor_of(floor, found.shape)
    print(f"{count(shape.n):>6} {count(shape.d):>6} {shape.seats},{shape.threshold:<2} {shape.leaves:>6} ", end="")
    print(f"{shape.group.copies:>6} {shape.dropout:>4g}% | {found.contributor * 1e3:>6.2f} ms ", end="")
    print(f"{found.role('seats: accept', 'seats: agree'):>8.3f} {found.role('seats: release'):>8.3f} ", end="")
    print(f"{found.role('inner seats'):>7.3f} {found.role('collector'):>7.3f} {least:>7.3f} ", end="")
    print(f"{found.aggregator / least:>7.2f} | {found.total:>8.2f} {found.upload_ratio:>8.5f} ", end="")
    peaks = f"{found.contributor_peak / _GIB:.2f}/{found.seats_peak / _GIB:.2f}"
    print(f"{peaks:>10} {found.wall:>5.0f}s {'yes' if found.exact else 'NO'}", flush=True)


def beside_head() -> None:
    """Print the head of the table beside Flower."""
    print(f"{'n':>6} {'d':>6} {'drop':>5} {'copies':>6} | {'total: ours':>11} {'Flower':>8} {'ratio':>6} | ", end="")
    print(
        f"{'server: ours':>12} {'Flower':>8} {'ratio':>6} | {'client: ours':>12} {'Flower':>9} {'ratio':>6} | ", end=""
    )
    print(f"{'upload':>7} {'Flower':>7} | ours     Flower")


def beside_row(ours: Outcome, theirs: Flower | str) -> None:
    """Print one row beside Flower's; text says why there is none."""
    shape = ours.shape
    start = f"{count(shape.n):>6} {count(shape.d):>6} {shape.dropout:>4g}% {shape.group.copies:>6} | "
    if isinstance(theirs, str):
        print(f"{start}{ours.total:>11.2f} {'-':>8}        | {ours.aggregator:>12.2f} {'-':>8}        | ", end="")
        print(f"{ours.contributor * 1e3:>9.2f} ms {'-':>9}        | Flower {theirs}", flush=True)
        return
    print(f"{start}{ours.total:>11.2f} {theirs.total:>8.2f} {theirs.total / ours.total:>5.1f}x | ", end="")
    print(f"{ours.aggregator:>12.2f} {theirs.server:>8.2f} {theirs.server / ours.aggregator:>5.1f}x | ", end="")
    print(f"{ours.contributor * 1e3:>9.2f} ms {theirs.per_client * 1e3:>6.1f} ms ", end="")
    print(f"{theirs.per_client / ours.contributor:>5.1f}x | {ours.upload_ratio:>7.4f} ", end="")
    print(f"{theirs.upload / 4 / shape.d:>7.4f} | {'exact' if ours.exact else 'WRONG':<8} ", end="")
    said = f"off by {theirs.error:.1e}" if theirs.error is not None else "did not finish"
    print(f"{said}, {theirs.neighbours} neighbours, {theirs.threshold} shares", flush=True)


def print_parts(found: Outcome, floor: Floor) -> None:
    """Print where the time of one row goes."""
    shape = found.shape
    print(f"Where the CPU goes: n={count(shape.n)}, d={count(shape.d)}, ({shape.seats},{shape.threshold}), ", end="")
    print(f"{shape.group.copies} copies; ms per contributor")
    roles = list(dict.fromkeys([ROLE, *sorted({role for role, _ in found.seconds})]))
    sums: Counter[str] = Counter()
    for (_, part), spent in found.seconds.items():
        sums[part] += spent
    print(f"  {'':<22}" + "".join(f"{role:>16}" for role in roles) + f"{'all':>10}")
    for part, spent in sums.most_common():
        cells = [found.seconds.get((role, part)) for role in roles]
        texts = "".join(f"{'' if cell is None else f'{1e3 * cell / found.uploads:.2f}':>16}" for cell in cells)
        print(f"  {part:<22}{texts}{1e3 * spent / found.uploads:>10.2f}")
    checks = sum(found.seconds.get((ACCEPT, part), 0.0) for part in (JSON, OPENS)) / found.uploads / shape.seats
    ends = "".join(f"{1e3 * found.role(role) / found.uploads:>16.2f}" for role in roles)
    print(f"  {'sum':<22}{ends}{1e3 * found.total / found.uploads:>10.2f}")
    print(
        f"For the cost model of learning/shape.py: mask {1 / floor.fused:.1e} s/byte, add {1 / floor.add:.1e} s/byte,",
        end=" ",
    )
    print(f"check {checks:.1e} s")


def print_deaths(rows: list[Deaths], seats: int, threshold: int) -> None:
    """Print what became of groups whose seats die."""
    print(f"Seats that die, ({seats},{threshold}), half of them before the set is agreed on, nobody replaced")
    print(f"  {'chance':>7} {'groups':>7} {'completed':>10} {'rule says':>10} {'exact':>7} {'as the rule says':>17}")
    for row in rows:
        share = f"{100 * row.completed / row.groups:.1f} %"
        print(f"  {row.percent:>5g} % {row.groups:>7} {share:>10} {100 * row.expected:>8.1f} % ", end="")
        print(f"{row.exact:>7} {row.as_predicted:>17}")
