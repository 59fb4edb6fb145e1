"""Made-up schools: answers of learners whose true abilities are known, as xAPI statements.

The model is a two-parameter item-response model (Birnbaum 1968) with practice:

    P(correct) = 1 / (1 + exp(-a_i (theta_l + mean over the item's skills of (u_lk + g_l n_lk) - b_i)))

theta_l ~ N(school mean, 0.9) is a learner's ability, u_lk ~ N(0, 0.5) their leaning to skill k, n_lk how often they have
practised it (at most 15 count), g_l ~ U(0.02, 0.14) how fast they learn; b_i ~ N(skill difficulty, 0.3) is an item's
difficulty, a_i ~ LogNormal(0.4, 0.2) its discrimination. Skills' difficulties are N(0, 1.5). Learners work in sessions
of one skill; a school prefers some skills (Dirichlet). Everything follows from the seed, each school from its own
stream, so that one more school changes no other. Items and skills are common to all schools.

Each school's folder gets ``statements.jsonl`` and ``roster.json`` (learners, years of birth, guardians of minors). The
true parameters go to ``truth.json`` beside the folders; no participant reads it.
"""

import dataclasses
import datetime as dt
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SKILLS = (
    "addition", "subtraction", "multiplication", "division", "fractions", "decimals", "percentages", "ratios",
    "equations", "inequalities", "functions", "graphs", "angles", "area", "volume", "probability",
)  # fmt: skip
_ITEMS_OF_A_SKILL = 12
_TWO_SKILLS_SHARE = 0.25
_ANSWERS = (40, 80)
_SESSION = (4, 9)
_PRACTICE_THAT_COUNTS = 15
_VOIDED_SHARE = 0.005
_YEARS_OF_BIRTH = (2005, 2012)
_COME_OF_AGE = 18
_YEAR = 2026
_START = dt.datetime(_YEAR, 1, 12, 8, 0, tzinfo=dt.UTC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class School:
    """What makes one school differ from the next."""

    name: str
    learners: int
    ability: float
    """The mean of theta."""
    focus: float
    """The Dirichlet concentration of its mix of skills: small means few skills."""


SCHOOLS = (
    School(name="ash", learners=120, ability=0.3, focus=3.0),
    School(name="birch", learners=60, ability=-0.2, focus=1.0),
    School(name="cedar", learners=30, ability=0.0, focus=1.5),
)
ONE_MORE = School(name="dogwood", learners=45, ability=0.1, focus=2.0)
"""A school that joins later."""


_MORE = (
    "elm", "fir", "gum", "hazel", "ivy", "juniper", "kauri", "larch", "maple", "neem", "oak", "pine", "quince", "rowan",
    "spruce", "teak",
)  # fmt: skip


def more_schools(count: int, learners: int | None = None) -> tuple[School, ...]:
    """Return ``count`` schools, the usual ones first; ``learners`` in all, in the usual proportions.

    Raises:
        ValueError: more schools than there are names for.
    """
    known = (*SCHOOLS, ONE_MORE)
    if count > len(known) + len(_MORE):
        raise ValueError(f"there are {len(known) + len(_MORE)} made-up schools at most")
    named = [School(name=name, learners=50 + 10 * (place % 5), ability=0.2 * (place % 4) - 0.3, focus=1.0 + place % 3)
             for place, name in enumerate(_MORE)]  # fmt: skip
    chosen = (*known, *named)[:count]
    if learners is None:
        return chosen
    usual, given, found = sum(school.learners for school in chosen), 0, []
    for place, school in enumerate(chosen):
        upto = learners * sum(one.learners for one in chosen[: place + 1]) // usual
        found.append(dataclasses.replace(school, learners=upto - given))
        given = upto
    return tuple(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Items:
    skills: tuple[tuple[int, ...], ...]
    difficulty: NDArray[np.float64]
    discrimination: NDArray[np.float64]


def generate(folder: Path, *, schools: Sequence[School] = SCHOOLS, seed: int = 11) -> list[Path]:
    """Write the schools' folders and ``truth.json`` below ``folder``; return the schools' folders.

    The same arguments give the same bytes.
    """
    items = _items(np.random.default_rng(_stream(seed, "items")))
    truth: dict[str, Any] = {
        "seed": seed,
        "skills": list(SKILLS),
        "items": [
            {"id": _item_id(items, index), "a": float(items.discrimination[index]), "b": float(items.difficulty[index])}
            for index in range(len(items.skills))
        ],
        "schools": {},
    }
    written = []
    for school in schools:
        place = folder / school.name
        place.mkdir(parents=True, exist_ok=True)
        truth["schools"][school.name] = _write_school(place, school, items, seed)
        written.append(place)
    _write_json(folder / "truth.json", truth)
    return written


def _write_school(place: Path, school: School, items: _Items, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(_stream(seed, school.name))
    mix = random.dirichlet(np.full(len(SKILLS), school.focus))
    learners, roster = [], []
    with (place / "statements.jsonl").open("w", encoding="utf-8") as file:
        for number in range(1, school.learners + 1):
            name = f"{school.name}-{number:04d}"
            truth, statements = _learner(name, school, items, mix, random)
            learners.append(truth)
            roster.append(_roster_entry(name, random))
            for statement in statements:
                file.write(json.dumps(statement, separators=(",", ":")) + "\n")
    _write_json(place / "roster.json", {"school": school.name, "learners": roster})
    return {"ability": school.ability, "mix": mix.tolist(), "learners": learners}


def _learner(
    name: str, school: School, items: _Items, mix: NDArray[np.float64], random: np.random.Generator
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    theta = random.normal(school.ability, 0.9)
    leaning = random.normal(0.0, 0.5, len(SKILLS))
    growth = random.uniform(0.02, 0.14)
    practised = np.zeros(len(SKILLS))
    moment = _START + dt.timedelta(minutes=int(random.integers(0, 60 * 24 * 5)))
    statements: list[dict[str, Any]] = []
    for index in _sequence(int(random.integers(*_ANSWERS, endpoint=True)), mix, random):
        skills = list(items.skills[index])
        ready = theta + np.mean(leaning[skills] + growth * np.minimum(practised[skills], _PRACTICE_THAT_COUNTS))
        chance = 1 / (1 + np.exp(-items.discrimination[index] * (ready - items.difficulty[index])))
        practised[skills] += 1
        moment += dt.timedelta(seconds=int(random.integers(20, 240)))
        statement = _statement(name, school, items, index, moment, random, correct=bool(random.random() < chance))
        statements.append(statement)
        if random.random() < _VOIDED_SHARE:
            statements += _mistake(statement, moment, random)
    return {"subject": name, "theta": theta, "growth": growth, "leaning": leaning.tolist()}, statements


def _sequence(count: int, mix: NDArray[np.float64], random: np.random.Generator) -> Iterator[int]:
    """Yield the items of a learner's answers: sessions of one skill."""
    done = 0
    while done < count:
        skill = int(random.choice(len(SKILLS), p=mix))
        for _ in range(min(int(random.integers(*_SESSION)), count - done)):
            yield skill * _ITEMS_OF_A_SKILL + int(random.integers(_ITEMS_OF_A_SKILL))
            done += 1


def _items(random: np.random.Generator) -> _Items:
    difficulty = random.normal(0.0, 1.5, len(SKILLS))
    skills: list[tuple[int, ...]] = []
    for skill in range(len(SKILLS)):
        for _ in range(_ITEMS_OF_A_SKILL):
            second = int(random.integers(len(SKILLS)))
            both = random.random() < _TWO_SKILLS_SHARE and second != skill
            skills.append((skill, second) if both else (skill,))
    means = np.array([np.mean(difficulty[list(item)]) for item in skills])
    return _Items(
        skills=tuple(skills),
        difficulty=random.normal(means, 0.3),
        discrimination=random.lognormal(0.4, 0.2, len(skills)),
    )


def _item_id(items: _Items, index: int) -> str:
    return f"https://example.org/items/{SKILLS[items.skills[index][0]]}-{index % _ITEMS_OF_A_SKILL + 1:02d}"


def _statement(
    name: str,
    school: School,
    items: _Items,
    index: int,
    moment: dt.datetime,
    random: np.random.Generator,
    *,
    correct: bool,
) -> dict[str, Any]:
    skills = [{"id": f"https://example.org/skills/{SKILLS[skill]}"} for skill in items.skills[index]]
    return {
        "id": _identifier(random),
        "actor": {"account": {"homePage": f"https://{school.name}.example.org", "name": name}},
        "verb": {"id": "http://adlnet.gov/expapi/verbs/answered"},
        "object": {"id": _item_id(items, index)},
        "result": {"success": correct},
        "context": {"contextActivities": {"grouping": skills}},
        "timestamp": moment.isoformat(),
    }


def _mistake(
    statement: dict[str, Any], moment: dt.datetime, random: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a wrongly repeated statement and the one that voids it."""
    wrong = statement | {"id": _identifier(random), "result": {"success": not statement["result"]["success"]}}
    voiding = {
        "id": _identifier(random),
        "actor": statement["actor"],
        "verb": {"id": "http://adlnet.gov/expapi/verbs/voided"},
        "object": {"objectType": "StatementRef", "id": wrong["id"]},
        "timestamp": moment.isoformat(),
    }
    return wrong, voiding


def _roster_entry(name: str, random: np.random.Generator) -> dict[str, Any]:
    born = int(random.integers(*_YEARS_OF_BIRTH))
    # Who is not yet of age at the end of the year counts as a minor: the roster has no birthdays.
    minor = _YEAR - born <= _COME_OF_AGE
    return {"subject": name, "birth_year": born, "guardian": f"guardian-of-{name}" if minor else None}


def _identifier(random: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=random.bytes(16), version=4))


def _stream(seed: int, name: str) -> list[int]:
    return [seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
