"""An execution tree of several groups as a drawing: providers, leaf groups, inner groups, collector; troubles are marked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from connector.reporting import wording
from connector.reporting.facts import RunFacts
from connector.reporting.plots import WIDTH, Drawn
from connector.reporting.svg import figure, path, shortened, tag, text

_MOST_ROWS = 24
_ROW, _TOP, _BOX = 30.0, 26.0, 24.0
_PROVIDERS, _GAP = 104.0, 18.0
_LETTER = 6.2
_FEW = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Box:
    """A box of the drawing."""

    x: float
    y: float
    width: float
    name: str
    note: str | None
    style: str


def group_tree(facts: RunFacts) -> Drawn:
    """Return the tree of a job whose sums were made in groups: providers on the left, the collector on the right."""
    groups = facts.payload["tree"]
    names = {member.participant: member.name for member in facts.members}
    depth = max(group["name"].count(".") for group in groups) + 1
    width = (WIDTH - _PROVIDERS - _GAP * (depth + 1)) / (depth + 1)
    providers = _providers(facts)
    hidden = max(len(providers) - _MOST_ROWS, 0)
    shown = providers[: _MOST_ROWS - 1] if hidden else providers
    levels = [[group for group in groups if group["name"].count(".") == depth - 1 - at] for at in range(depth)]
    rows = max(len(shown) + bool(hidden), *(len(level) for level in levels), 1)
    height = _TOP + _ROW * rows + 4
    boxes: dict[str, _Box] = {}
    for name, y in zip(shown, _places(len(shown) + bool(hidden), height), strict=False):
        boxes[name] = _Box(x=0, y=y, width=_PROVIDERS, name=names.get(name, name), note=None, style="box")
    for at, level in enumerate(levels):
        x = _PROVIDERS + _GAP + at * (width + _GAP)
        for group, y in zip(level, _places(len(level), height), strict=True):
            boxes[group["name"]] = _group_box(facts, group, x, y, width)
    root = _Box(
        x=WIDTH - width,
        y=_places(1, height)[0],
        width=width,
        name="AI provider",
        note="sees the sum",
        style="box collector",
    )
    parts = [*_headings(depth, width), *_edges(facts, groups, boxes, root)]
    for box in (*boxes.values(), root):
        parts += _draw(box)
    if hidden:
        parts.append(
            text(6, _places(len(shown) + 1, height)[-1] + 4, f"and {len(providers) - len(shown)} more", style="note")
        )
    description = _description(facts, groups)
    return Drawn(
        title="Execution tree",
        svg=figure("tree", "Execution tree", description, WIDTH, height, parts),
        caption=description,
        header=("group", "seats", "contributions", "trouble", "last sum"),
        rows=tuple(_row(facts, group, names) for group in groups),
    )


def _providers(facts: RunFacts) -> list[str]:
    """Return the providers that contributed, those of one leaf group side by side."""
    inside = {name for value in facts.rounds for name in value.contributors}
    dealt = [member for group in facts.payload["tree"] for member in group["members"]]
    order = [*dealt, *(member.participant for member in facts.members)]
    return list(dict.fromkeys(name for name in order if name in inside))


def _group_box(facts: RunFacts, group: Mapping[str, Any], x: float, y: float, width: float) -> _Box:
    trouble = _trouble(facts, group["name"])
    return _Box(
        x=x,
        y=y,
        width=width,
        name=f"{'leaf' if group['leaf'] else 'group'} {group['name']}",
        note=trouble or f"{len(group['seats'])} seats",
        style="box seat troubled" if trouble else "box seat",
    )


def _headings(depth: int, width: float) -> list[Markup]:
    words = ["Providers", "Leaf groups", *(["Groups above"] * (depth > 1)), "Collector"]
    places = [0.0, _PROVIDERS + _GAP, *([_PROVIDERS + _GAP + width + _GAP] * (depth > 1)), WIDTH - width]
    return [text(x, 11, word, style="axis") for x, word in zip(places, words, strict=True)]


def _edges(facts: RunFacts, groups: Sequence[Mapping[str, Any]], boxes: Mapping[str, _Box], root: _Box) -> list[Markup]:
    drawn = []
    providers = [name for name in _providers(facts) if name in boxes]
    for group in groups:
        if group["leaf"]:
            members = group["members"] or providers
            drawn += [_edge(boxes[name], boxes[group["name"]], "edge masked") for name in members if name in boxes]
        above = root if group["parent"] is None else boxes[group["parent"]]
        style = "edge troubled" if _trouble(facts, group["name"]) else "edge"
        drawn.append(_edge(boxes[group["name"]], above, style))
    return drawn


def _edge(start: _Box, end: _Box, style: str) -> Markup:
    return path([(start.x + start.width, start.y), (end.x, end.y)], style)


def _draw(box: _Box) -> list[Markup]:
    said = box.name if box.note is None else f"{box.name}: {box.note}"
    letters = int(box.width / _LETTER)
    frame = tag(
        "rect",
        tag("title", said),
        x=box.x + 0.5,
        y=box.y - _BOX / 2,
        width=box.width - 1,
        height=_BOX,
        rx=3,
        class_=box.style,
    )
    words = shortened(box.name, letters)
    if box.note is None:
        return [frame, text(box.x + 6, box.y + 4, words, style="name")]
    note = shortened(box.note, letters + 2)
    return [frame, text(box.x + 6, box.y - 1, words, style="name"), text(box.x + 6, box.y + 9, note, style="note")]


def _of_group(facts: RunFacts, name: str) -> list[tuple[int, Mapping[str, Any]]]:
    """Return (round, what became of the group) of every completed round."""
    rows = [row for row in facts.payload["rounds"] if row["state"] == "DONE"]
    return [(row["round"], group) for row in rows for group in row.get("groups", ()) if group["group"] == name]


def _trouble(facts: RunFacts, name: str) -> str:
    """Return in few words what went wrong in a group, over all rounds; empty where nothing did."""
    lost, replaced, out = [], [], []
    for number, group in _of_group(facts, name):
        if not group["inside"]:
            out.append(number)
        elif group["lost"]:
            lost.append(number)
        elif group["in_this_round"]:
            replaced.append(number)
    parts = [
        f"{word} in {_rounds(numbers)}"
        for word, numbers in (("left out", out), ("seat lost", lost), ("seat replaced", replaced))
        if numbers
    ]
    return ", ".join(parts)


def _rounds(numbers: Sequence[int]) -> str:
    if len(numbers) <= _FEW:
        return f"round{'s'[: len(numbers) != 1]} {' and '.join(map(str, numbers))}"
    return f"{len(numbers)} rounds"


def _places(count: int, height: float) -> list[float]:
    step = (height - _TOP) / max(count, 1)
    return [_TOP + step * (index + 0.5) for index in range(count)]


def _description(facts: RunFacts, groups: Sequence[Mapping[str, Any]]) -> str:
    leaves = sum(1 for group in groups if group["leaf"])
    seats = len(groups[0]["seats"])
    counted = [row.get("counted", 0) for row in facts.payload["rounds"] if row["state"] == "DONE"]
    what = "learners" if facts.aggregation.get("granularity") == "learner" else "providers"
    words = (
        f"Up to {max(counted, default=0):,} {what} contributed to each sum; each masked its update towards the {seats} "
        f"seats of one of {leaves} leaf groups, seats of different organisations, and the AI provider received only what "
        "the top group's seats released: the sum of all"
    )
    troubled = [group["name"] for group in groups if _trouble(facts, group["name"])]
    tail = (
        f" Trouble in {', '.join(f'group {name}: {_trouble(facts, name)}' for name in troubled)}." if troubled else ""
    )
    return words + "." + tail


def _row(facts: RunFacts, group: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, ...]:
    found = _of_group(facts, group["name"])
    last = found[-1][1] if found else None
    sums = wording.DASH
    if last is not None and last["seconds"] is not None:
        sums = f"{last['shares']} shares, {wording.size(last['bytes'])}, after {wording.seconds(last['seconds'])}"
    count = str(last["contributors"]) if last is not None and group["leaf"] else wording.DASH
    seats = ", ".join(names.get(seat, seat) for seat in group["seats"])
    return (group["name"], seats, count, _trouble(facts, group["name"]) or wording.DASH, sums)
