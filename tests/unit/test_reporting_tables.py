"""The tables of a finished job, in a terminal."""

import dataclasses
import io

from rich.console import Console
from rich.table import Table

from connector.reporting.facts import read_facts
from connector.reporting.observations import NOTHING
from connector.reporting.tables import energy, metrics_table, percentile, summary_table
from tests.support.reports import sample


def shown(table: Table, width: int = 120) -> str:
    """Return what a terminal shows."""
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_summary_compares_local_federated_and_central() -> None:
    """One row a metric, one column a model, and how each came about."""
    job = sample()
    text = shown(summary_table(job.document, job.observations))
    assert "Local only" in text
    assert "Central" in text
    row = next(line for line in text.splitlines() if "AUC, pooled" in line)
    assert [cell.strip() for cell in row.strip("\u2502").split("\u2502")] == ["AUC, pooled", "0.706", "0.754", "0.767"]
    assert "these data are synthetic" in " ".join(text.split())


def test_without_a_reference_there_is_no_central_column() -> None:
    """The signed report alone compares local only and federated."""
    text = shown(summary_table(sample().document, NOTHING))
    assert "Central" not in text
    assert "Federated" in text


def test_the_metrics_table_has_what_was_asked_for() -> None:
    """Nodes, volume, rounds, update size, latency, privacy level, quality and energy are all there."""
    job = sample()
    text = shown(metrics_table(job.document, job.observations), 160)
    for words in (
        "3 data providers, 1 AI provider",
        "200\u2013499 learners",
        "30 of 30; 1 attempt given up",
        "p50 / p95",
        "44 kB",
        "secure sums, star of 3 seats",
        "none yet",
        "0.754 federated",
        "modelled",
    ):
        assert words in text


def test_the_phases_of_a_round_add_up_to_its_time() -> None:
    """Marks since the opening become durations; their sum is the time of the last mark."""
    job = sample(rounds=3)
    facts = read_facts(job.document, job.observations)
    for row, value in zip(job.document["payload"]["rounds"], facts.rounds, strict=True):
        assert abs(value.seconds - row["timing"]["summed"]) < 1e-9
        assert min(value.phases.values()) >= 0


def test_measured_cpu_time_replaces_the_cards() -> None:
    """Whole processes' CPU time, when it was measured, is what the energy model is given."""
    job = sample(rounds=3)
    whole = dataclasses.replace(job.observations, cpu_seconds={"workers": 3_000.0, "API processes": 600.0})
    found = energy(read_facts(job.document, whole))
    assert found is not None
    assert (found.cpu_seconds, found.watt_hours, found.low, found.high) == (3_600.0, 10.0, 4.0, 20.0)
    assert found.grams == 2.5


def test_percentiles_are_values_that_occurred() -> None:
    """The 95th percentile of twenty values is the nineteenth."""
    values = [float(value) for value in range(20, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.5)) == (10.0, 19.0, 7.0)
