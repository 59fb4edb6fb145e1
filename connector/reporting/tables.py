"""The comparison and the metrics table, as rows for the page and as tables for a terminal."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

from rich.table import Table
from rich.text import Text

from connector.reporting import wording
from connector.reporting.facts import RunFacts, read_facts
from connector.reporting.observations import NOTHING, Observations

How: TypeAlias = Literal["measured", "plan", "manifest", "card", "computed", "modelled"]
_JOULES_PER_WH = 3600.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One line of the metrics table; ``how`` says where the value comes from."""

    group: str
    label: str
    value: str
    how: How


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One metric over the compared models: ``values`` by column, ``best`` the columns with the best value."""

    label: str
    values: tuple[str, ...]
    best: frozenset[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Energy:
    """Modelled energy in watt-hours, with its range, and CO2e in grams."""

    cpu_seconds: float
    watt_hours: float
    low: float
    high: float
    grams: float


def summary_table(document: Mapping[str, Any], observations: Observations = NOTHING) -> Table:
    """Return the terminal table of a finished job: local only, federated and central, side by side.

    Args:
        document: the signed training report.
        observations: the unsigned part; its central reference becomes a column, its notes the caption.
    """
    facts = read_facts(document, observations)
    table = Table(title=facts.plan["title"], title_justify="left", caption_justify="left")
    table.add_column("On all test rows")
    for comparison in facts.comparisons:
        table.add_column(comparison.title, justify="right")
    for row in comparison_rows(facts):
        cells = [Text(value, style="bold" if index in row.best else "") for index, value in enumerate(row.values)]
        table.add_row(row.label, *cells)
    table.caption = "\n".join([*(f"{value.title}: {value.how}." for value in facts.comparisons), *observations.notes])
    return table


def metrics_table(document: Mapping[str, Any], observations: Observations = NOTHING) -> Table:
    """Return the terminal table of everything else: nodes, data, rounds, bytes, times, privacy, energy."""
    facts = read_facts(document, observations)
    table = Table("", "Value", "How known", title="The run", title_justify="left")
    group = None
    for row in metric_rows(facts):
        if group is not None and row.group != group:
            table.add_section()
        group = row.group
        table.add_row(row.label, row.value, row.how)
    return table


def comparison_rows(facts: RunFacts) -> list[ComparisonRow]:
    """Return the comparison, one row a metric; metrics that no column has are left out."""
    rows = []
    for key, label in wording.METRICS.items():
        values = [comparison.metrics.get(key) for comparison in facts.comparisons]
        known = [value for value in values if value is not None]
        if not known:
            continue
        top = min(known) if key in wording.LOWER_IS_BETTER else max(known)
        best = frozenset(i for i, v in enumerate(values) if v is not None and round(v, 3) == round(top, 3))
        several = len(known) > 1
        rows.append(
            ComparisonRow(
                label=label,
                values=tuple(wording.metric(value) for value in values),
                best=best if several else frozenset(),
            )
        )
    return rows


def metric_rows(facts: RunFacts) -> list[MetricRow]:
    """Return the metrics table in reading order."""
    return [
        *_node_rows(facts),
        *_round_rows(facts),
        *_byte_rows(facts),
        *_privacy_rows(facts),
        *_quality_rows(facts),
        *_energy_rows(facts),
    ]


def energy(facts: RunFacts) -> Energy | None:
    """Return the energy model's answer, or None when no CPU time is known."""
    spent = math.fsum(facts.cpu_seconds.values())
    if not spent:
        return None
    model = facts.observations.energy
    hours = spent / _JOULES_PER_WH
    return Energy(
        cpu_seconds=spent,
        watt_hours=hours * model.watts,
        low=hours * model.low,
        high=hours * model.high,
        grams=hours * model.watts / 1000 * model.grams_per_kwh,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that ``share`` of the (non-empty) values do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def _node_rows(facts: RunFacts) -> list[MetricRow]:
    stayed = [member for member in facts.members if member.state in {"ACTIVE", "DONE"}]
    away = len(facts.members) - len(stayed)
    left = f"; {away} more left or refused" if away else ""
    rows = [
        MetricRow(
            group="nodes", label="Nodes", value=f"{len(stayed)} data providers, 1 AI provider{left}", how="measured"
        )
    ]
    rows += [
        MetricRow(
            group="nodes",
            label=f"Data at {card.name}",
            value=f"{card.learners} learners, {card.rows} training rows",
            how="card",
        )
        for card in facts.named_cards
    ]
    test = (facts.payload["final"] or {}).get("test", {})
    if test.get("count"):
        value = f"{test['count']:,} test rows, {test['positives'] / test['count']:.0%} of them positive"
        rows.append(MetricRow(group="nodes", label="Measured on", value=value, how="measured"))
    return rows


def _round_rows(facts: RunFacts) -> list[MetricRow]:
    times = [value.seconds for value in facts.training]
    again = f"; {facts.given_up} attempt{'s'[: facts.given_up != 1]} given up and repeated" if facts.given_up else ""
    done = f"{len(times)} of {facts.plan['rounds']}{again}"
    rows = [MetricRow(group="rounds", label="Rounds", value=done, how="measured")]
    if times:
        latency = f"{wording.seconds(percentile(times, 0.5))} / {wording.seconds(percentile(times, 0.95))}"
        rows.append(MetricRow(group="rounds", label="Time per round, p50 / p95", value=latency, how="measured"))
        first, last = facts.rounds[0], facts.rounds[-1]
        training = (last.opened_at - first.opened_at).total_seconds() + last.seconds
        waited = (first.opened_at - datetime.fromisoformat(facts.payload["started_at"])).total_seconds()
        value = f"{wording.seconds(training)}, after {wording.seconds(waited)} of recruiting"
        rows.append(MetricRow(group="rounds", label="Time from first to last sum", value=value, how="measured"))
    return rows


def _byte_rows(facts: RunFacts) -> list[MetricRow]:
    model = f"{facts.plan['model']['kind']}, {facts.payload['parameters']:,} parameters"
    rows = [MetricRow(group="bytes", label="Model", value=model, how="plan")]
    row = next((row for row in facts.payload["rounds"] if row["sizes"].get("vector")), None)
    if row is not None:
        vector = row["sizes"]["vector"]
        ratio = vector / (4 * facts.payload["parameters"])
        value = f"{wording.size(vector)}: {ratio:.3f} times the float32 model, metrics included"
        rows.append(MetricRow(group="bytes", label="Update of one provider", value=value, how="measured"))
        total = sum(sum(value.flows.values()) for value in facts.rounds)
        per_round = wording.size(total / len(facts.rounds)) if facts.rounds else wording.DASH
        value = f"{per_round} per round, {wording.size(total)} in all, at most"
        rows.append(MetricRow(group="bytes", label="Over the network, all nodes", value=value, how="computed"))
    return rows


def _privacy_rows(facts: RunFacts) -> list[MetricRow]:
    floor = f"at least {facts.plan['cohort_floor']} consenting learners at each provider"
    return [
        MetricRow(group="privacy", label="Privacy level", value=wording.mode(facts.aggregation), how="manifest"),
        MetricRow(
            group="privacy", label="AI provider sees", value=wording.ai_provider_sees(facts.aggregation), how="manifest"
        ),
        MetricRow(group="privacy", label="Cohort floor", value=floor, how="plan"),
        MetricRow(
            group="privacy",
            label="Differential privacy",
            value=wording.differential_privacy(facts.payload),
            how="plan",
        ),
    ]


def _quality_rows(facts: RunFacts) -> list[MetricRow]:
    rows = []
    for key, label in (("accuracy", "Accuracy"), ("auc", "AUC")):
        parts = [
            f"{wording.metric(found)} {comparison.title.lower()}"
            for comparison in facts.comparisons
            if (found := comparison.metrics.get(key)) is not None
        ]
        if parts:
            rows.append(MetricRow(group="quality", label=label, value=", ".join(parts), how="measured"))
    return rows


def _energy_rows(facts: RunFacts) -> list[MetricRow]:
    found = energy(facts)
    if found is None:
        return [
            MetricRow(group="energy", label="Energy", value="not known: no CPU time was handed over", how="modelled")
        ]
    model = facts.observations.energy
    value = (
        f"{found.watt_hours:.2g} Wh ({found.low:.2g} to {found.high:.2g}), {found.grams:.2g} g CO2e: "
        f"{found.cpu_seconds:.1f} CPU s x {model.watts:g} W a core ({model.low:g} to {model.high:g}), "
        f"{model.grams_per_kwh:g} g/kWh"
    )
    return [
        MetricRow(group="energy", label="CPU time", value=f"{found.cpu_seconds:.1f} s", how="measured"),
        MetricRow(group="energy", label="Energy, a model", value=value, how="modelled"),
    ]
