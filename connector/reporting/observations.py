"""What people chose to add to a signed report: providers' own cards, references, costs, events. None of it is signed.

The signed report holds only sums. A provider's own numbers reach a page because its operator handed over a card; the
card holds bands instead of counts, and no id of a learner.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

from learning.rounds import Step, StepState

EventKind: TypeAlias = Literal["note", "waiting", "refused", "withdrawn", "lost", "retried", "ended"]
# Sizes of a band; a count below the first is never told apart (DESIGN section 8).
_BANDS = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000)
# The counts of a card are left out: a band says enough.
_SHOWN = ("auc", "accuracy", "loss", "brier", "ece")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardStep:
    """A provider's own step in one round; costs in seconds.

    ``metrics`` (split -> metric -> value) keeps only rates: counts are dropped, and so is a split measured on fewer than
    ten rows, because a rate over so few tells the count.
    """

    round: int
    kind: str
    metrics: Mapping[str, Mapping[str, float | None]]
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Drop what a card does not show, whoever makes it."""
        shown = {
            split: {name: values.get(name) for name in _SHOWN}
            for split, values in self.metrics.items()
            if (values.get("count", _BANDS[0]) or 0) >= _BANDS[0]
        }
        object.__setattr__(self, "metrics", shown)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProviderCard:
    """What one provider's operator hands over about its own part.

    Attributes:
        participant: participant id.
        name: the name for people.
        learners: band of consenting learners, as `band` writes it.
        rows: band of rows (or answers) trained on.
        steps: the provider's own steps.
        named: the operator agrees to be named beside its numbers; otherwise they only enter the bands over providers.
    """

    participant: str
    name: str
    learners: str
    rows: str
    steps: tuple[CardStep, ...]
    named: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened on the way, in words that hold no data; ``told_by`` is who says so."""

    at: datetime
    kind: EventKind
    text: str
    told_by: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Numbers to hold the federated model against. ``metrics`` has the keys of `learning.metrics.summarise`.

    ``name`` is ``central`` or ``local-only`` (the latter overrides the job's own secure sums); ``how`` says in a
    sentence how it was made.
    """

    name: Literal["central", "local-only"]
    how: str
    metrics: Mapping[str, float | int | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnergyModel:
    """Energy as a model of measured CPU time: watts a busy core draws, with a range, and grams of CO2e a kWh.

    Both factors are assumptions, printed as such. The range spans a small server core and a busy desktop one.
    """

    watts: float = 10.0
    low: float = 4.0
    high: float = 20.0
    grams_per_kwh: float = 250.0
    basis: str = "assumed: a busy x86 core with its share of memory and power supply; a round figure for European grids"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observations:
    """The unsigned part of an output.

    Attributes:
        cards: of the providers whose operators added one.
        events: withdrawals, refusals, waits; merged with the report's own timeline.
        references: what to compare with.
        cpu_seconds: measured CPU seconds by what spent them; empty: the sum over the cards' steps.
        energy: the model that turns CPU seconds into energy.
        notes: sentences printed under the result, e.g. that a demo pooled its own synthetic data.
    """

    cards: tuple[ProviderCard, ...] = ()
    events: tuple[Event, ...] = ()
    references: tuple[Reference, ...] = ()
    cpu_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    energy: EnergyModel = EnergyModel()
    notes: tuple[str, ...] = ()


NOTHING = Observations()


def band(count: int) -> str:
    """Return the band of a count, e.g. ``50-99``; everything below 10 is ``under 10``."""
    if count < _BANDS[0]:
        return f"under {_BANDS[0]}"
    for low, high in itertools.pairwise(_BANDS):
        if count < high:
            return f"{low:,}\u2013{high - 1:,}"
    return f"{_BANDS[-1]:,} or more"


def card_of(
    participant: str, name: str, steps: Sequence[Step], *, learners: int, rows: int, named: bool = True
) -> ProviderCard:
    """Return the card that a provider's operator makes from its own steps; counts become bands here.

    Args:
        participant: participant id.
        name: its name for people.
        steps: the provider's own step records of the job.
        learners: consenting learners at the end.
        rows: rows or answers trained on.
        named: whether the operator agrees to be named beside the numbers.
    """
    done = [step for step in steps if step.state is StepState.DONE]
    return ProviderCard(
        participant=participant,
        name=name,
        learners=band(learners),
        rows=band(rows),
        steps=tuple(_card_step(step) for step in done),
        named=named,
    )


def observations_document(value: Observations) -> dict[str, Any]:
    """Return the observations as JSON, marked as what they are."""
    document = dataclasses.asdict(value)
    for event in document["events"]:
        event["at"] = event["at"].isoformat()
    # A provider that agreed to no name gives its numbers to the bands, and its name to nobody.
    for number, card in enumerate(document["cards"], start=1):
        if not card["named"]:
            card["participant"], card["name"] = None, f"unnamed provider {number}"
    return {"signed": False, **document}


def _card_step(step: Step) -> CardStep:
    return CardStep(
        round=step.round,
        kind=str(step.kind),
        metrics=step.local or {},
        cpu_seconds=float(step.cost.get("cpu_seconds", 0.0)),
        wall_seconds=float(step.cost.get("wall_seconds", 0.0)),
    )
