"""The made-up schools: repeatable, readable through the bundled view, and with a truth that answers follow."""

import json
from pathlib import Path

import numpy as np
import pytest

from connector.demo.generator import ONE_MORE, SCHOOLS, SKILLS, generate
from connector.sources.opened import open_source
from connector.sources.providers import bundled_views, list_providers, list_subjects, load_view
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location
from learning.views import skill_count

VIEW = load_view(next(path for path in bundled_views() if path.stem == "synthetic-xapi"))


@pytest.fixture(scope="module")
def schools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default schools and one more."""
    folder = tmp_path_factory.mktemp("data") / "synthetic-schools"
    generate(folder, schools=(*SCHOOLS, ONE_MORE))
    return folder


def test_the_same_seed_gives_the_same_bytes_and_one_more_school_changes_none(schools: Path, tmp_path: Path) -> None:
    """Each school follows from the seed and its name alone."""
    generate(tmp_path, schools=SCHOOLS[2:])
    for name in ("statements.jsonl", "roster.json"):
        assert (tmp_path / "cedar" / name).read_bytes() == (schools / "cedar" / name).read_bytes()


def test_the_bundled_view_reads_each_school(schools: Path, tmp_path: Path) -> None:
    """Learners and answers have the sizes that the schools are made with; voided statements are gone."""
    assert [(entry.name, entry.subjects) for entry in list_providers(VIEW, schools)] == [
        ("ash", 120),
        ("birch", 60),
        ("cedar", 30),
    ]
    source = open_source(VIEW, Location(folder=schools, parameters={"school": "dogwood"}))
    facts = build_snapshot(source, None, str, tmp_path / "data.safetensors")
    lines = (schools / "dogwood" / "statements.jsonl").read_text(encoding="utf-8").splitlines()
    voided = sum("verbs/voided" in line for line in lines)
    assert voided > 0
    assert facts.rows == len(lines) - 2 * voided
    assert 40 * facts.subjects <= facts.rows <= 80 * facts.subjects
    assert skill_count(VIEW) == len(SKILLS)


def test_the_roster_names_the_learners_and_their_guardians(schools: Path) -> None:
    """Every learner of the statements is on the roster; minors, and only they, have a guardian."""
    source = open_source(VIEW, Location(folder=schools, parameters={"school": "ash"}))
    roster = json.loads((schools / "ash" / "roster.json").read_text(encoding="utf-8"))["learners"]
    assert {learner["subject"] for learner in roster} == set(list_subjects(source))
    minors = [learner for learner in roster if learner["guardian"]]
    assert 0 < len(minors) < len(roster)
    assert max(learner["birth_year"] for learner in roster if not learner["guardian"]) < 2008


def test_answers_follow_the_true_abilities(schools: Path) -> None:
    """A learner's share of right answers goes with their true ability."""
    truth = json.loads((schools / "truth.json").read_text(encoding="utf-8"))["schools"]["ash"]["learners"]
    source = open_source(VIEW, Location(folder=schools, parameters={"school": "ash"}))
    data = source.read(None, str).data
    right: dict[str, list[bool]] = {}
    for row in data.select(["subject", "correct"]).to_pylist():
        right.setdefault(row["subject"], []).append(row["correct"])
    shares = {subject: sum(answers) / len(answers) for subject, answers in right.items()}
    ability = [learner["theta"] for learner in truth]
    assert np.corrcoef(ability, [shares[learner["subject"]] for learner in truth])[0, 1] > 0.5
