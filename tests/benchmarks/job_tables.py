"""The job benchmark's numbers as tables."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from learning.rounds import Round, RoundKind, Step
from tests.benchmarks.job_stage import JobRun

# A round at the collector, from one opening to the next: what it waits for in each part.
_PARTS: Mapping[str, tuple[str | None, str]] = {
    "announce": (None, "announced"),
    "providers": ("announced", "trained"),
    "agree": ("trained", "signed"),
    "release": ("signed", "released"),
    "sum": ("released", "summed"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One size of round: seconds a round (lower quartiles: a shared core is only ever slower), parts in seconds (medians).

    ``over`` is what a round of the stack takes over one of the bare loop with a process per provider, as a share.
    """

    size: float
    steps: int
    alone: float
    together: float
    stack: float
    over: float
    bare_cpu: float
    stack_cpu: float
    parts: Mapping[str, float]

    @classmethod
    def of(
        cls,
        *,
        size: float,
        steps: int,
        alone: Sequence[tuple[float, float]],
        together: Sequence[tuple[float, float]],
        jobs: Sequence[JobRun],
        warm: int,
    ) -> "Row":
        """Take the rounds that count, of loops and jobs that took turns."""
        stack = lower_quartile(period for job in jobs for period in _periods(job.rounds)[warm:])
        bare = lower_quartile(wall for wall, _ in together)
        return cls(
            size=size,
            steps=steps,
            alone=lower_quartile(wall for wall, _ in alone),
            together=bare,
            stack=stack,
            over=stack / bare - 1,
            bare_cpu=statistics.fmean(cpu for _, cpu in together),
            stack_cpu=statistics.fmean(job.cpu_seconds for job in jobs),
            parts=_parts(jobs, warm),
        )


def headline(rows: Iterable[Row]) -> str:
    """Return the table of whole rounds."""
    lines = [
        "seconds a round,          bare loop,     a process      whole      over the bare loop     CPU s a round",
        "quartile minibatches    one process  per provider      stack      seconds    percent     bare     stack",
    ]
    lines += [
        f"{row.size:<6g}{row.steps:>13}{row.alone:>16.3f}{row.together:>14.3f}{row.stack:>11.3f}"
        f"{row.stack - row.together:>+13.3f}{row.over:>+11.0%}{row.bare_cpu:>9.2f}{row.stack_cpu:>10.2f}"
        for row in rows
    ]
    return "\n".join(lines)


def breakdown(rows: Sequence[Row]) -> str:
    """Return the table of a round's parts, in milliseconds."""
    lines = ["ms of a round, medians " + "".join(f"{f'{row.size:g} s':>12}" for row in rows)]
    for name in rows[0].parts:
        lines += [f"{name:<23}" + "".join(f"{1000 * row.parts[name]:>12.0f}" for row in rows)]
    return "\n".join(lines)


def _periods(rounds: Sequence[Round]) -> list[float]:
    """Return the seconds from each training round's opening to the next round's."""
    done = [value for value in rounds if value.state == "DONE"]
    pairs = itertools.pairwise(done)
    return [(late.opened_at - early.opened_at).total_seconds() for early, late in pairs]


def _parts(jobs: Sequence[JobRun], warm: int) -> dict[str, float]:
    counted = [value for job in jobs for value in _trained(job.rounds)[warm:]]
    parts = {
        name: _median(value.timing[end] - (value.timing[start] if start else 0.0) for value in counted)
        for name, (start, end) in _PARTS.items()
        if all(end in value.timing and (start is None or start in value.timing) for value in counted)
    }
    periods = [(job, period) for job in jobs for period in _periods(job.rounds)[warm:]]
    sums = [value.timing["summed"] for value in counted]
    parts["next opening"] = _median(period - done for (_, period), done in zip(periods, sums, strict=True))
    steps = [step for job in jobs for own in job.steps for step in own if step.kind is RoundKind.TRAIN]
    costs: dict[str, Callable[[Step], float]] = {
        "  slowest step": lambda step: step.cost["wall_seconds"],
        "  its sandbox": lambda step: step.cost["overhead_seconds"],
    }
    extra = sorted({key for step in steps for key in step.cost if key.startswith("at_")})
    for name, read in costs.items():
        parts[name] = _median(_slowest(steps, read))
    for key in extra:
        parts["  " + key] = _median(_slowest(steps, lambda step, key=key: step.cost.get(key, 0.0)))  # type: ignore[misc]
    return parts


def _trained(rounds: Sequence[Round]) -> list[Round]:
    return [value for value in rounds if value.kind is RoundKind.TRAIN and value.state == "DONE"]


def _slowest(steps: Sequence[Step], read: Callable[[Step], float]) -> list[float]:
    rounds: dict[tuple[str, int], float] = {}
    for step in steps:
        key = (step.job_id, step.round)
        rounds[key] = max(rounds.get(key, 0.0), read(step))
    return list(rounds.values())


def lower_quartile(values: Iterable[float]) -> float:
    """Return the value that a quarter of ``values`` is below; NaN of none."""
    found = sorted(values)
    return found[len(found) // 4] if found else float("nan")


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values) or [float("nan")])
