"""The report's charts: learning curve, providers before and after, stacked bars per round. Small, so that a phone reads them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from connector.reporting import wording
from connector.reporting.facts import FLOWS, PHASES, BandPoint, RoundFacts, RunFacts
from connector.reporting.svg import (
    TEXT_WIDTH,
    Scale,
    figure,
    line,
    path,
    shortened,
    spread,
    tag,
    text,
    ticks,
    whole_ticks,
)

WIDTH = 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 84.0, 12.0, 36.0
_CURVE_HEIGHT = 250.0
_BARS_HEIGHT = 210.0
_MOST_BARS = 48
_ROW, _TIGHT_ROW, _MANY = 34.0, 23.0, 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """A chart with its numbers as a table, for those who cannot see it or want to check it."""

    title: str
    svg: Markup
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bar:
    first: int
    last: int
    parts: tuple[float, ...]


def curve(facts: RunFacts, metric: str) -> Drawn | None:
    """Return the learning curve of a metric: test and validation, the band over the cards, the references as levels."""
    lines = [(split, facts.curve(split, metric)) for split in ("test", "valid")]
    lines = [(split, points) for split, points in lines if points]
    if not lines:
        return None
    band = facts.band("test", metric)
    levels = [
        (title, value)
        for key, title in (("local-only", "local only"), ("central", "central"))
        if (found := facts.comparison(key)) is not None and (value := found.metrics.get(metric)) is not None
    ]
    name = wording.SHORT[metric]
    points = lines[0][1]
    last = max(behind for _, found in lines for behind, _ in found)
    values = [value for _, found in lines for _, value in found] + [value for _, value in levels]
    values += [edge for point in band for edge in (point.low, point.high)]
    marks = ticks(min(values), max(values))
    x = Scale(low=0, high=max(last, 1), start=_LEFT, end=WIDTH - _RIGHT)
    y = Scale(low=marks[0], high=marks[-1], start=_CURVE_HEIGHT - _BOTTOM, end=_TOP)
    parts = [*_grid(marks, y), *_round_axis(last, x, _CURVE_HEIGHT, "rounds of training behind the model")]
    parts += _band(band, x, y)
    parts += [line(x.start, y(value), x.end, y(value), f"level {_css(title)}") for title, value in levels]
    parts += [path([(x(a), y(b)) for a, b in found], f"line {split}") for split, found in reversed(lines)]
    end = points[-1]
    parts.append(tag("circle", cx=x(end[0]), cy=y(end[1]), r=3.6, class_="dot test"))
    parts += _end_labels(lines, levels, y, x.end + 7)
    description = (
        f"{name} on the test rows goes from {wording.metric(points[0][1])} before training "
        f"to {wording.metric(end[1])} after {end[0]} rounds."
        + "".join(f" {title.capitalize()}: {wording.metric(value)}." for title, value in levels)
        + (
            f" The band spans the lowest to the highest of {_providers(facts)} providers, its thin line the one in the middle."
            if band
            else ""
        )
    )
    title = f"Learning curve: {name}"
    return Drawn(
        title=title,
        svg=figure(f"curve-{metric}", title, description, WIDTH, _CURVE_HEIGHT, parts),
        caption=f"{name} per round, measured by {wording.sums(facts.aggregation)} before the round\u2019s training. {description}",
        header=("rounds behind", *(split for split, _ in lines), *(("lowest", "middle", "highest") if band else ())),
        rows=_curve_rows(lines, band),
    )


def providers(facts: RunFacts, metric: str) -> Drawn | None:
    """Return each named provider's value with its own model and with the federated one, and the range over all cards."""
    rows: list[tuple[str, float | None, float]] = []
    for card in facts.named_cards:
        final = next((step.metrics for step in reversed(card.steps) if step.kind == "evaluate"), {})
        own, together = final.get("local", {}).get(metric), final.get("test", {}).get(metric)
        if together is not None:
            rows.append((card.name, own, together))
    if not rows:
        return None
    rows.sort(key=lambda row: -row[2])
    values = [value for _, own, together in rows for value in (own, together) if value is not None]
    marks = ticks(min(values), max(values), 4)
    step = _ROW if len(rows) <= _MANY else _TIGHT_ROW
    height = step * len(rows) + 52
    left = 134.0
    x = Scale(low=marks[0], high=marks[-1], start=left, end=WIDTH - 16)
    parts = [*_legend([("alone", "swatch local-only"), ("together", "swatch test")], left)]
    foot = height - 24
    for mark in marks:
        parts += [line(x(mark), 24, x(mark), foot, "grid"), text(x(mark), height - 8, f"{mark:g}", anchor="middle")]
    for index, (name, own, together) in enumerate(rows):
        parts += _dumbbell(name, own, together, x, 24 + step * (index + 0.5))
    label = wording.SHORT[metric]
    better = sum(1 for _, own, together in rows if own is not None and together > own)
    known = sum(1 for _, own, _ in rows if own is not None)
    description = (
        f"{label} on each provider\u2019s own test rows, trained alone and together. "
        f"{better} of {known} providers are better off together."
    )
    title = f"Providers: {label} alone and together"
    return Drawn(
        title=title,
        svg=figure("providers", title, description, WIDTH, height, parts),
        caption=f"{description} From the providers\u2019 own cards; only those whose operators chose to be named.",
        header=("provider", "alone", "together"),
        rows=tuple((name, wording.metric(own), wording.metric(together)) for name, own, together in rows),
    )


def round_times(facts: RunFacts) -> Drawn | None:
    """Return the time of each training round by phase."""
    return _bars(
        facts.training,
        "time",
        PHASES,
        lambda value: value.phases,
        title="Time per round",
        form=wording.seconds,
        caption="Wall-clock time of each training round at the collector, by what it was waiting for.",
    )


def round_bytes(facts: RunFacts) -> Drawn | None:
    """Return the payload of each training round by direction."""
    return _bars(
        facts.training,
        "bytes",
        FLOWS,
        lambda value: value.flows,
        title="Bytes per round",
        form=wording.size,
        caption=(
            "Payload of each training round over all nodes, computed from the measured sizes without headers "
            "and as if every seat were remote."
        ),
    )


def _bars(
    rounds: Sequence[RoundFacts],
    name: str,
    keys: Sequence[str],
    read: Callable[[RoundFacts], Mapping[str, float]],
    *,
    title: str,
    form: Callable[[float], str],
    caption: str,
) -> Drawn | None:
    found = [(value.number, tuple(read(value)[key] for key in keys)) for value in rounds]
    if not any(sum(parts) for _, parts in found):
        return None
    bars = _binned(found)
    kept = [index for index in range(len(keys)) if any(bar.parts[index] for bar in bars)]
    top = max(sum(bar.parts) for bar in bars)
    marks = ticks(0, top, 4)
    last = bars[-1].last
    x = Scale(low=0, high=last, start=_LEFT + 10, end=WIDTH - 10)
    y = Scale(low=0, high=marks[-1], start=_BARS_HEIGHT - _BOTTOM, end=_TOP + 22)
    parts = [*_legend([(keys[index], f"swatch part-{name}-{index}") for index in kept], x.start)]
    parts += _grid(marks, y, lambda value: form(value) if value else "0", right=10, left=_LEFT + 10)
    for bar in bars:
        parts += _bar(bar, name, x, y)
    shown = [number for number in whole_ticks(last) if number >= 1]
    if bars[0].first == 1 and 1 not in shown:
        shown = [1, *shown]
    parts += [text(x(n - 0.5), _BARS_HEIGHT - 20, str(n), anchor="middle") for n in shown]
    parts.append(text((x.start + x.end) / 2, _BARS_HEIGHT - 4, "round", anchor="middle", style="axis"))
    totals = sorted(sum(parts) for _, parts in found)
    width = bars[0].last - bars[0].first + 1
    description = f"From {form(totals[0])} to {form(totals[-1])} a round, median {form(totals[len(totals) // 2])}."
    description += f" Each bar is the mean of {width} rounds." if width > 1 else ""
    return Drawn(
        title=title,
        svg=figure(name, title, description, WIDTH, _BARS_HEIGHT, parts),
        caption=f"{caption} {description}",
        header=("round", *(keys[index] for index in kept)),
        rows=tuple((str(number), *(form(parts[index]) for index in kept)) for number, parts in found),
    )


def _bar(bar: _Bar, name: str, x: Scale, y: Scale) -> list[Markup]:
    left, right = x(bar.first - 1), x(bar.last)
    gap = min((right - left) * 0.18, 3.0)
    # Few rounds would make walls of bars.
    width = min(right - left - gap, 34.0)
    middle, bottom, drawn = (left + right) / 2, 0.0, []
    for index, part in enumerate(bar.parts):
        if part > 0:
            high = y(bottom + part)
            drawn.append(
                tag(
                    "rect",
                    x=middle - width / 2,
                    y=high,
                    width=width,
                    height=y(bottom) - high,
                    class_=f"part-{name}-{index}",
                )
            )
        bottom += part
    return drawn


def _binned(found: Sequence[tuple[int, tuple[float, ...]]]) -> list[_Bar]:
    width = math.ceil(len(found) / _MOST_BARS)
    bars = []
    for start in range(0, len(found), width):
        group = found[start : start + width]
        means = tuple(math.fsum(values) / len(group) for values in zip(*(parts for _, parts in group), strict=True))
        bars.append(_Bar(first=group[0][0], last=group[-1][0], parts=means))
    return bars


def _grid(
    marks: Sequence[float],
    y: Scale,
    form: Callable[[float], str] = lambda value: f"{value:g}",
    *,
    right: float = _RIGHT,
    left: float = _LEFT,
) -> list[Markup]:
    drawn = []
    for mark in marks:
        drawn.append(line(left, y(mark), WIDTH - right, y(mark), "grid"))
        drawn.append(text(left - 6, y(mark) + 3.6, form(round(mark, 9)), anchor="end"))
    return drawn


def _round_axis(last: int, x: Scale, height: float, title: str) -> list[Markup]:
    drawn = [text(x(mark), height - 20, str(mark), anchor="middle") for mark in whole_ticks(last)]
    return [*drawn, text((x.start + x.end) / 2, height - 4, title, anchor="middle", style="axis")]


def _band(band: Sequence[BandPoint], x: Scale, y: Scale) -> list[Markup]:
    if not band:
        return []
    upper = [(x(point.behind), y(point.high)) for point in band]
    lower = [(x(point.behind), y(point.low)) for point in reversed(band)]
    middle = [(x(point.behind), y(point.middle)) for point in band]
    return [path([*upper, *lower], "band", closed=True), path(middle, "line middle")]


def _end_labels(
    lines: Sequence[tuple[str, Sequence[tuple[int, float]]]], levels: Sequence[tuple[str, float]], y: Scale, left: float
) -> list[Markup]:
    labels = [(_SPLITS[split], found[-1][1], split) for split, found in lines]
    labels += [(title, value, _css(title)) for title, value in levels]
    places = spread([y(value) + 3.6 for _, value, _ in labels], 13.0, _TOP + 6, y.start + 4)
    return [
        text(left, place, title, style=f"label {style}")
        for (title, _, style), place in zip(labels, places, strict=True)
    ]


def _dumbbell(name: str, own: float | None, together: float, x: Scale, middle: float) -> list[Markup]:
    drawn = [text(0, middle + 3.8, shortened(name, 21), style="name")]
    if own is not None:
        drawn.append(line(x(own), middle, x(together), middle, "span"))
        drawn.append(tag("circle", cx=x(own), cy=middle, r=4.2, class_="dot hollow local-only"))
    drawn.append(tag("circle", cx=x(together), cy=middle, r=4.8, class_="dot test"))
    return drawn


def _legend(entries: Sequence[tuple[str, str]], left: float) -> list[Markup]:
    drawn, place = [], left
    for words, style in entries:
        drawn.append(tag("rect", x=place, y=3, width=9, height=9, rx=1.5, class_=style))
        drawn.append(text(place + 13, 11.4, words))
        place += 13 + len(words) * TEXT_WIDTH + 16
    return drawn


def _curve_rows(
    lines: Sequence[tuple[str, Sequence[tuple[int, float]]]], band: Sequence[BandPoint]
) -> tuple[tuple[str, ...], ...]:
    by_split = [dict(found) for _, found in lines]
    by_round = {point.behind: point for point in band}
    rows = []
    for behind in sorted({number for found in by_split for number in found}):
        point = by_round.get(behind)
        edges = (None,) * 3 if point is None else (point.low, point.middle, point.high)
        values = [*(found.get(behind) for found in by_split), *(edges if band else ())]
        rows.append((str(behind), *(wording.metric(value) for value in values)))
    return tuple(rows)


def _providers(facts: RunFacts) -> int:
    return len(facts.observations.cards)


def _css(title: str) -> str:
    return title.replace(" ", "-")


_SPLITS = {"test": "test", "valid": "validation"}
