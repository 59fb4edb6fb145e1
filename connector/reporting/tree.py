"""The execution tree as a drawing: who contributed, who summed, who saw the sum; what was lost on the way is marked."""

from collections.abc import Sequence

from markupsafe import Markup

from connector.reporting.facts import Member, RunFacts
from connector.reporting.plots import WIDTH, Drawn
from connector.reporting.svg import figure, path, shortened, tag, text

_MOST_ROWS = 20
_ROW, _TOP, _BOX = 34.0, 26.0, 26.0
_COLUMNS = ((0.0, 130.0), (160.0, 132.0), (318.0, 82.0))
_LONGEST = (18, 18, 12)
_ALIVE = frozenset({"ACTIVE", "DONE"})


def execution_tree(facts: RunFacts) -> Drawn:
    """Return the tree of the job: contributors on the left, the seats of the group, the collector on the right."""
    contributors = [member for member in facts.members if _took_part(facts, member)]
    away = [member for member in facts.members if member not in contributors]
    shown = [*contributors, *away]
    hidden = len(shown) - _MOST_ROWS if len(shown) > _MOST_ROWS else 0
    shown = shown[: _MOST_ROWS - 1] if hidden else shown
    hidden = len(contributors) + len(away) - len(shown)
    seats = sorted((member for member in facts.members if member.seat is not None), key=lambda member: member.seat or 0)
    rows = len(shown) + (1 if hidden else 0)
    height = _TOP + _ROW * max(rows, len(seats), 1) + 4
    left = _places(rows, height)
    middle = _places(len(seats), height)
    root = _places(1, height)[0]
    parts = [*_headings(bool(seats))]
    parts += _edges(facts, shown, left, middle, root)
    for member, y in zip(shown, left, strict=False):
        parts += _box(0, y, member.name, _contributor_style(facts, member), _contributor_note(facts, member))
    if hidden:
        parts.append(text(6, left[-1] + 4, f"and {hidden} more", style="note"))
    for member, y in zip(seats, middle, strict=True):
        lost = _lost_rounds(facts, member.seat)
        note = f"lost in {_rounds(lost)}" if lost else None
        parts += _box(1, y, member.name, "box seat troubled" if lost else "box seat", note)
    parts += _box(2, root, "AI provider", "box collector", "sees the sum" if seats else "sees updates")
    description = _description(facts, contributors, away, seats)
    return Drawn(
        title="Execution tree",
        svg=figure("tree", "Execution tree", description, WIDTH, height, parts),
        caption=description,
        header=("provider", "state", "seat", "rounds contributed", "remark"),
        rows=tuple(_row(facts, member) for member in facts.members),
    )


def _headings(seats: bool) -> list[Markup]:  # noqa: FBT001 - one caller
    words = ("Contributors", "Seats of the group" if seats else "", "Collector")
    return [text(x, 11, title, style="axis") for (x, _), title in zip(_COLUMNS, words, strict=True) if title]


def _edges(
    facts: RunFacts, shown: Sequence[Member], left: Sequence[float], middle: Sequence[float], root: float
) -> list[Markup]:
    drawn = []
    starts = [(y, _took_part(facts, member)) for member, y in zip(shown, left, strict=False)]
    for y, alive in starts:
        if not alive:
            continue
        for target in middle or [root]:
            column = 1 if middle else 2
            drawn.append(_edge(0, y, column, target, "edge masked" if middle else "edge"))
    seats = sorted(member.seat for member in facts.members if member.seat is not None)
    for seat, y in zip(seats, middle, strict=True):
        drawn.append(_edge(1, y, 2, root, "edge troubled" if _lost_rounds(facts, seat) else "edge"))
    return drawn


def _edge(column: int, y: float, onto: int, target: float, style: str) -> Markup:
    start = _COLUMNS[column][0] + _COLUMNS[column][1]
    return path([(start, y), (_COLUMNS[onto][0], target)], style)


def _box(column: int, y: float, name: str, style: str, note: str | None) -> list[Markup]:
    x, width = _COLUMNS[column]
    drawn = [
        tag(
            "rect",
            tag("title", name if note is None else f"{name}: {note}"),
            x=x + 0.5,
            y=y - _BOX / 2,
            width=width - 1,
            height=_BOX,
            rx=3,
            class_=style,
        )
    ]
    words = shortened(name, _LONGEST[column])
    if note is None:
        return [*drawn, text(x + 7, y + 4, words, style="name")]
    return [*drawn, text(x + 7, y - 1, words, style="name"), text(x + 7, y + 9.5, shortened(note, 22), style="note")]


def _took_part(facts: RunFacts, member: Member) -> bool:
    return member.state in _ALIVE or member.seat is not None or facts.last_round_of(member.participant) is not None


def _contributor_style(facts: RunFacts, member: Member) -> str:
    if not _took_part(facts, member):
        return "box gone"
    return "box troubled" if _missed(facts, member) or member.state not in _ALIVE else "box"


def _contributor_note(facts: RunFacts, member: Member) -> str | None:
    last = facts.last_round_of(member.participant)
    if member.state not in _ALIVE and last is not None:
        return f"left after round {last}"
    if member.state not in _ALIVE:
        return "refused" if "refus" in (member.reason or "") else "did not take part"
    missed = _missed(facts, member)
    return f"missing in {_rounds(missed)}" if missed else None


def _missed(facts: RunFacts, member: Member) -> list[int]:
    return [value.number for value in facts.rounds if member.participant in value.missing]


def _lost_rounds(facts: RunFacts, seat: int | None) -> list[int]:
    return [value.number for value in facts.rounds if seat in value.lost_seats]


def _rounds(numbers: Sequence[int]) -> str:
    few = 2
    if len(numbers) <= few:
        return f"round{'s'[: len(numbers) != 1]} {' and '.join(map(str, numbers))}"
    return f"{len(numbers)} rounds"


def _places(count: int, height: float) -> list[float]:
    step = (height - _TOP) / max(count, 1)
    return [_TOP + step * (index + 0.5) for index in range(count)]


def _description(
    facts: RunFacts, contributors: Sequence[Member], away: Sequence[Member], seats: Sequence[Member]
) -> str:
    absent = "up to " if any(value.missing for value in facts.rounds) else ""
    words = [f"{absent}{len(contributors)} providers contributed to each sum".capitalize()]
    if seats:
        words.append(
            f"each masked its update towards {len(seats)} seats held by different organisations, and the AI provider "
            "received only what the seats released: their sum"
        )
    else:
        words.append("the AI provider received each update")
    lost = sum(1 for value in facts.rounds for _ in value.lost_seats)
    tail = (
        f" A seat fell silent in {lost} round{'s'[: lost != 1]}; its work passed to the seats that hold the same seeds."
        if lost
        else ""
    )
    tail += f" {len(away)} invited provider{'s'[: len(away) != 1]} took no part." if away else ""
    return "; ".join(words) + "." + tail


def _row(facts: RunFacts, member: Member) -> tuple[str, ...]:
    took = sum(1 for value in facts.rounds if member.participant in value.contributors)
    seat = "\u2013" if member.seat is None else str(member.seat + 1)
    lost = _lost_rounds(facts, member.seat) if member.seat is not None else []
    remarks = [member.reason] if member.reason else []
    remarks += [f"seat lost in {_rounds(lost)}"] if lost else []
    return (member.name, member.state.lower(), seat, str(took), "; ".join(remarks) or "\u2013")
