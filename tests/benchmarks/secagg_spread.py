"""One row at several moments: the cores' own speed drifts, so what a bar compares is measured side by side."""

import dataclasses
import statistics

from tests.benchmarks.secagg_floor import measure_floor
from tests.benchmarks.secagg_run import Outcome, run
from tests.benchmarks.secagg_stage import Shape
from tests.benchmarks.secagg_tables import floor_of


@dataclasses.dataclass(kw_only=True)
class Spread:
    """Runs of one row, each with the floor of its aggregators as measured just before and after it, CPU seconds."""

    shape: Shape
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    floors: list[float] = dataclasses.field(default_factory=list)

    def run(self, times: int) -> None:
        """Run the row ``times`` more times."""
        before = floor_of(measure_floor(), self.shape)
        for _ in range(times):
            self.outcomes.append(run(self.shape))
            after = floor_of(measure_floor(), self.shape)
            self.floors.append((before + after) / 2)
            before = after

    @property
    def total(self) -> float:
        """CPU seconds of everybody, the mean."""
        return statistics.fmean(outcome.total for outcome in self.outcomes)

    @property
    def sides(self) -> list[float]:
        """CPU seconds of the aggregators over their floor, of each run."""
        return [outcome.aggregator / floor for outcome, floor in zip(self.outcomes, self.floors, strict=True)]

    @property
    def contributor(self) -> float:
        """CPU seconds of one contributor, the median of all runs' medians."""
        return statistics.median(outcome.contributor for outcome in self.outcomes)

    @property
    def middle(self) -> Outcome:
        """The run with the median of the totals, of an even number the lower one."""
        return sorted(self.outcomes, key=lambda outcome: outcome.total)[(len(self.outcomes) - 1) // 2]
