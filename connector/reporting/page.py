"""The report as one page of HTML that needs nothing else: no script, no font, no image, no address."""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from connector.reporting import plots, wording
from connector.reporting.facts import RunFacts, read_facts
from connector.reporting.groups import group_tree
from connector.reporting.observations import NOTHING, Observations
from connector.reporting.tables import comparison_rows, energy, metric_rows
from connector.reporting.tree import execution_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """A number of the page's head, with what it is and a remark."""

    label: str
    value: str
    remark: str


def render_page(document: Mapping[str, Any], observations: Observations = NOTHING) -> str:
    """Return the page of a signed training report and its observations.

    Args:
        document: the signed report, ``{"payload": ..., "signature": ...}``.
        observations: the unsigned part.
    """
    facts = read_facts(document, observations)
    metric = "auc" if facts.curve("test", "auc") else "accuracy"
    environment = Environment(
        loader=PackageLoader("connector.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("connector.reporting").joinpath("templates", "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        facts=facts,
        payload=facts.payload,
        plan=facts.plan,
        created=_date(facts.payload["created_at"]),
        opening=_opening(facts),
        key_figures=_key_figures(facts, metric),
        comparison_rows=comparison_rows(facts),
        metric_rows=metric_rows(facts),
        curves=[drawn for name in (metric, "loss") if (drawn := plots.curve(facts, name)) is not None],
        providers=plots.providers(facts, metric),
        tree=group_tree(facts) if facts.payload.get("tree") else execution_tree(facts),
        costs=[drawn for drawn in (plots.round_times(facts), plots.round_bytes(facts)) if drawn is not None],
        events=_events(facts),
        wording=wording,
        # The style sheet is our own file.
        style=Markup(style),  # noqa: S704
    )


def _date(text: str) -> str:
    at = datetime.fromisoformat(text)
    return f"{at.day} {at:%B %Y}, {at:%H:%M} UTC"


def _opening(facts: RunFacts) -> str:
    providers = sum(1 for member in facts.members if member.state in {"ACTIVE", "DONE"})
    organisation = facts.payload.get("collector", {}).get("organisation")
    by = f" for {organisation}" if organisation else ""
    return (
        f"{providers} data providers trained one model{by}. The rows stayed where they are; "
        f"{'only sums left the group of seats' if facts.aggregation['mode'] != 'clear' else 'updates were not masked'}."
    )


def _key_figures(facts: RunFacts, metric: str) -> list[KeyFigure]:
    found: list[KeyFigure] = []
    together = facts.comparison("federated")
    alone = facts.comparison("local-only")
    value = None if together is None else together.metrics.get(metric)
    if value is not None:
        other = None if alone is None else alone.metrics.get(metric)
        remark = "on all test rows" if other is None else f"{value - other:+.3f} against local only"
        label = f"{wording.SHORT[metric]} of the federated model"
        found.append(KeyFigure(label=label, value=wording.metric(value), remark=remark.replace("-", "\u2212", 1)))
    rounds = facts.training
    if rounds:
        times = sorted(value.seconds for value in rounds)
        middle = f"{wording.seconds(times[len(times) // 2])} each (median)"
        found.append(KeyFigure(label="Rounds of training", value=str(len(rounds)), remark=middle))
    seats = facts.aggregation.get("seats") or 0
    sums = "secure sums" if seats else "no masking"
    remark = f"{seats} seats, {facts.aggregation['threshold']} may collude" if seats else "the contracts allow it"
    found.append(KeyFigure(label="Updates travelled as", value=sums, remark=remark))
    used = energy(facts)
    if used is not None:
        span = f"a model: {used.low:.2g} to {used.high:.2g} Wh"
        found.append(KeyFigure(label="Energy of local training", value=f"{used.watt_hours:.2g} Wh", remark=span))
    return found


def _events(facts: RunFacts) -> list[dict[str, str]]:
    start = datetime.fromisoformat(facts.payload["started_at"])
    return [
        {
            "after": wording.seconds(max((event.at - start).total_seconds(), 0.0)),
            "kind": event.kind,
            "text": event.text,
            "told_by": event.told_by,
        }
        for event in facts.events
    ]
