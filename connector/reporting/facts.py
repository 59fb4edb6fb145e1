"""A signed report and its observations, read into the numbers that tables and plots show. Nothing is computed twice."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from connector.reporting import wording
from connector.reporting.observations import Event, EventKind, Observations, ProviderCard

PHASES = ("announce", "train", "agree", "release")
_MARKS = ("announced", "trained", "signed", "summed")
FLOWS = ("model out", "masked uploads", "shares in")
# A band over fewer providers would be their own numbers.
_FEWEST_IN_A_BAND = 3
_WORDS: tuple[tuple[str, EventKind], ...] = (
    ("could not contribute", "lost"),
    ("given up", "retried"),
    ("waiting", "waiting"),
    ("refuse", "refused"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundFacts:
    """A round that was completed. ``phases`` in seconds, ``flows`` in payload bytes over the network at most."""

    number: int
    attempt: int
    trains: bool
    opened_at: datetime
    phases: Mapping[str, float]
    flows: Mapping[str, int]
    contributors: tuple[str, ...]
    missing: tuple[str, ...]
    lost_seats: tuple[int, ...]
    metrics: Mapping[str, Mapping[str, float | None]]

    @property
    def seconds(self) -> float:
        """The round's time from its opening to its sum."""
        return sum(self.phases.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A provider as the signed report lists it; ``seat`` is its column in the group, if it has one."""

    participant: str
    name: str
    state: str
    reason: str | None
    seat: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One column of the comparison: a model, how it came about, and its metrics on the providers' test rows."""

    key: str
    title: str
    how: str
    metrics: Mapping[str, float | int | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandPoint:
    """Lowest, middle and highest value over the providers' cards after ``behind`` rounds of training."""

    behind: int
    low: float
    middle: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A whole run."""

    payload: Mapping[str, Any]
    signer: str
    observations: Observations
    rounds: tuple[RoundFacts, ...]
    given_up: int
    members: tuple[Member, ...]
    comparisons: tuple[Comparison, ...]
    events: tuple[Event, ...]

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan's payload."""
        plan: Mapping[str, Any] = self.payload["plan"]
        return plan

    @property
    def aggregation(self) -> Mapping[str, Any]:
        """Mode, seats, threshold, quorum and copies, as the manifest fixed them."""
        return aggregation_of(self.payload)

    @property
    def training(self) -> tuple[RoundFacts, ...]:
        """The completed rounds that trained."""
        return tuple(value for value in self.rounds if value.trains)

    @property
    def named_cards(self) -> tuple[ProviderCard, ...]:
        """The cards whose operators agreed to be named, in the order given."""
        return tuple(card for card in self.observations.cards if card.named)

    def last_round_of(self, participant: str) -> int | None:
        """Return the last training round that a provider contributed to; None when there was none."""
        return max((value.number for value in self.training if participant in value.contributors), default=None)

    @property
    def cpu_seconds(self) -> Mapping[str, float]:
        """Measured CPU seconds by what spent them."""
        if self.observations.cpu_seconds:
            return self.observations.cpu_seconds
        spent = sum(step.cpu_seconds for card in self.observations.cards for step in card.steps)
        return {"training and evaluation steps in the sandbox": spent} if spent else {}

    def comparison(self, key: str) -> Comparison | None:
        """Return a column of the comparison."""
        return next((value for value in self.comparisons if value.key == key), None)

    def curve(self, split: str, metric: str) -> list[tuple[int, float]]:
        """Return (rounds of training behind the model, value); a round's sums measure the model that it began with."""
        found = ((value.number - 1, value.metrics.get(split, {}).get(metric)) for value in self.rounds)
        return [(behind, number) for behind, number in found if number is not None]

    def band(self, split: str, metric: str) -> list[BandPoint]:
        """Return the band over the cards, where at least three providers have a value."""
        by_round: dict[int, list[float]] = {}
        for card in self.observations.cards:
            own = {step.round: step.metrics.get(split, {}).get(metric) for step in card.steps}
            for number, value in own.items():
                if value is not None:
                    by_round.setdefault(number, []).append(value)
        return [
            BandPoint(behind=number - 1, low=min(values), middle=statistics.median(values), high=max(values))
            for number, values in sorted(by_round.items())
            if len(values) >= _FEWEST_IN_A_BAND
        ]


def read_facts(document: Mapping[str, Any], observations: Observations) -> RunFacts:
    """Return the facts of a signed training report (``{"payload": ..., "signature": ...}``) and its observations.

    Raises:
        KeyError: the document is no report of `learning.report`.
    """
    payload = document["payload"]
    rows = payload["rounds"]
    done = [row for row in rows if row["state"] == "DONE"]
    aggregation = aggregation_of(payload)
    members = tuple(
        Member(**{field.name: row.get(field.name) for field in dataclasses.fields(Member)})
        for row in payload["members"]
    )
    return RunFacts(
        payload=payload,
        signer=document["signature"]["kid"],
        observations=observations,
        rounds=tuple(_round(row, aggregation) for row in done),
        given_up=sum(1 for row in rows if row["state"] == "ABORTED"),
        members=members,
        comparisons=tuple(_comparisons(payload, observations, wording.sums(aggregation))),
        events=tuple(_events(payload, observations)),
    )


def aggregation_of(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how the report says that updates were summed; an older report says less."""
    found = payload.get("aggregation")
    if found is not None:
        return dict(found)
    asked = payload["plan"]["aggregation"]
    seats = sum(1 for member in payload["members"] if member["seat"] is not None)
    return {"mode": asked["mode"], "seats": seats, "threshold": payload["threshold"], "bits": asked["bits"]}


def _round(row: Mapping[str, Any], aggregation: Mapping[str, Any]) -> RoundFacts:
    marks = [float(row["timing"].get(mark, 0.0)) for mark in _MARKS]
    reached = [max(marks[: index + 1]) for index in range(len(marks))]
    phases = {name: after - before for name, before, after in zip(PHASES, [0.0, *reached[:-1]], reached, strict=True)}
    return RoundFacts(
        number=row["round"],
        attempt=row["attempt"],
        trains=row["kind"] == "train",
        opened_at=datetime.fromisoformat(row["opened_at"]),
        phases=phases,
        flows=_flows(row, aggregation),
        contributors=tuple(row["contributors"]),
        missing=tuple(row.get("missing", ())),
        lost_seats=tuple(row["lost_seats"]),
        metrics=row["metrics"] or {},
    )


def _flows(row: Mapping[str, Any], aggregation: Mapping[str, Any]) -> dict[str, int]:
    vector, contributors = row["sizes"].get("vector", 0), row.get("counted") or len(row["contributors"])
    seats = aggregation.get("seats") or 0
    groups = aggregation.get("groups")
    copies = aggregation.get("copies") or max(seats - (aggregation.get("threshold") or 0), 1)
    sizes = (
        row["sizes"].get("model", 0) * row["expected"],
        vector * contributors * copies,
        vector * seats * (groups or 1),
    )
    return dict(zip(FLOWS, sizes, strict=True))


def _comparisons(payload: Mapping[str, Any], observations: Observations, sums: str) -> list[Comparison]:
    final = payload["final"] or {}
    given = {value.name: value for value in observations.references}
    found: list[Comparison] = []
    if "local-only" in given:
        found.append(_reference("Local only", given["local-only"].how, "local-only", given["local-only"].metrics))
    elif final.get("local", {}).get("count"):
        how = f"each provider trains alone on its own rows; measured by {sums} over the providers"
        found.append(_reference("Local only", how, "local-only", final["local"]))
    if final.get("test"):
        found.append(
            _reference("Federated", f"the job's model; measured by {sums} on all test rows", "federated", final["test"])
        )
    if final.get("finetuned", {}).get("count"):
        how = "the job's model, trained on at each provider and kept there where it got better"
        found.append(_reference("Federated, tuned locally", how, "finetuned", final["finetuned"]))
    if "central" in given:
        found.append(_reference("Central", given["central"].how, "central", given["central"].metrics))
    return found


def _reference(title: str, how: str, key: str, metrics: Mapping[str, float | int | None]) -> Comparison:
    return Comparison(key=key, title=title, how=how, metrics=metrics)


def _events(payload: Mapping[str, Any], observations: Observations) -> list[Event]:
    own = [
        Event(at=datetime.fromisoformat(line["at"]), kind=_kind(line["text"]), text=line["text"], told_by="collector")
        for line in payload.get("timeline", ())
        if not _routine(line["text"])
    ]
    for row in payload["rounds"]:
        opened = datetime.fromisoformat(row["opened_at"])
        if row["lost_seats"]:
            seats = _list([f"seat {column + 1}" for column in row["lost_seats"]])
            text = f"round {row['round']}: {seats} fell silent; its work passed to the seats that hold the same seeds"
            own.append(Event(at=opened, kind="lost", text=text, told_by="collector"))
        if row["state"] == "ABORTED" and not payload.get("timeline"):
            text = f"round {row['round']}, attempt {row['attempt']}, given up: {row['reason']}"
            own.append(Event(at=opened, kind="retried", text=text, told_by="collector"))
    return sorted([*own, *observations.events], key=lambda event: event.at)


def _kind(text: str) -> EventKind:
    return next((kind for word, kind in _WORDS if word in text), "note")


def _routine(text: str) -> bool:
    # One line a round: the curve says it better.
    return "model before it" in text


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
