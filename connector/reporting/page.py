"""The report as one page of HTML that needs nothing else: no script, no font, no image, no address."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from connector.reporting import wording
from connector.reporting.facts import read_facts
from connector.reporting.observations import NOTHING, Observations
from connector.reporting.tables import comparison_rows, energy, metric_rows


def render_page(document: Mapping[str, Any], observations: Observations = NOTHING) -> str:
    """Return the page of a signed training report and its observations."""
    facts = read_facts(document, observations)
    environment = Environment(
        loader=PackageLoader("connector.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        facts=facts,
        payload=facts.payload,
        plan=facts.plan,
        comparison_rows=comparison_rows(facts),
        metric_rows=metric_rows(facts),
        energy=energy(facts),
        wording=wording,
    )
