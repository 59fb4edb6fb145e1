"""Drawing in SVG: escaped tags, scales, ticks, and a figure that says in words what it shows."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

TEXT_WIDTH = 5.7
"""Mean advance of a character of the figures' 11-unit text, in units; for placing, not for measuring."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear scale from data to units of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of ``value``."""
        width = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / width * (self.end - self.start)


def tag(name: str, *children: str, **attributes: str | float | None) -> Markup:
    """Return an element; text children and attribute values are escaped, ``_`` in attribute names becomes ``-``."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    # Each child is escaped unless it is Markup already, so no data can become an element.
    return Markup(f"<{name}{said}>{''.join(escape(child) for child in children)}</{name}>")  # noqa: S704


def figure(name: str, title: str, description: str, width: float, height: float, parts: Iterable[Markup]) -> Markup:
    """Return an ``svg`` element with a title and a description that a screen reader reads out.

    Args:
        name: unique on the page; the ids come from it.
        title: what it is.
        description: what it shows, in words with its main numbers.
        width: of the drawing, in units.
        height: of the drawing, in units.
        parts: the drawing.
    """
    ids = (f"{name}-title", f"{name}-description")
    return tag(
        "svg",
        tag("title", title, id=ids[0]),
        tag("desc", description, id=ids[1]),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=" ".join(ids),
        class_="chart",
    )


def text(x: float, y: float, words: str, *, anchor: str | None = None, style: str | None = None) -> Markup:
    """Return a line of text at a baseline."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=style)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def path(points: Sequence[tuple[float, float]], style: str, *, closed: bool = False) -> Markup:
    """Return a polyline through points."""
    steps = "L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return tag("path", d=f"M{steps}{'Z' if closed else ''}", class_=style)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers that span [low, high], about ``wanted`` of them; the first and last lie outside or on it."""
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.1
    raw = (high - low) / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def whole_ticks(high: int, wanted: int = 6) -> list[int]:
    """Return whole numbers from 0 that stay within ``high``."""
    return [round(value) for value in ticks(0, max(high, 1), wanted) if value <= high and value == round(value)]


def shortened(words: str, longest: int) -> str:
    """Return ``words``, cut to ``longest`` characters."""
    return words if len(words) <= longest else words[: longest - 1].rstrip() + "\u2026"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places moved apart to at least ``gap``, each as near to where it was as the order allows."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(places[index], floor)
        floor = moved[index] + gap
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def _value(value: str | float | None) -> str:
    if isinstance(value, str):
        return str(escape(value))
    return f"{value:.2f}".rstrip("0").rstrip(".")
