"""Publishing datasets into a participant's database: what the catalog, the notice and the local facts say."""

import dataclasses
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connector.cli.dataset import app
from connector.datasets.desk import open_publisher
from connector.datasets.errors import DatasetError
from connector.datasets.folder import DatasetFolder
from connector.datasets.opening import dataset_view
from connector.datasets.publication import Publication, rows_band
from connector.learner_data import ParticipantSnapshots
from connector.settings import Settings, Storage
from connector.sources.source import SourceError
from connector.storage.migrate import upgrade
from learning.views import output_digest
from policies.gate import requirements
from policies.parse import parse_policy
from tests.support.consents import Clock
from tests.support.datasets import ALGORITHM, PURPOSE, ElmSchool, elm_school


@pytest.fixture
def school(tmp_path: Path, database_url: str) -> ElmSchool:
    """Give a school on each kind of database."""
    made = elm_school(tmp_path)
    upgrade(database_url)
    settings = made.settings.model_copy(update={"storage": Storage(database_url=database_url)})
    return dataclasses.replace(made, settings=settings)


def publish(settings: Settings, clock: Clock | None = None) -> Publication:
    """Publish the school's one dataset."""
    with open_publisher(settings, now=clock or Clock()) as publisher:
        return publisher.publish(publisher.folder.named("answers"))


def test_the_catalog_shows_schema_and_bands(school: ElmSchool) -> None:
    """An AI provider sees shape, columns and digests, and how many rows only as a band."""
    found = publish(school.settings)
    with open_publisher(school.settings, now=Clock()) as publisher:
        kept = publisher.store.dataset(school.dataset_id)
    assert kept == found.dataset
    properties = found.dataset.properties
    assert (properties["shape"], properties["rowsBand"]) == ("responses", "100-1000")
    assert {"name": "correct", "type": "correct", "meaning": "the answer was right at the first try"} in (
        properties["columns"]
    )
    assert found.dataset.formats == ("FederatedTraining",)
    assert str(found.facts.rows) not in json.dumps(properties)


def test_the_offer_states_the_terms(school: ElmSchool) -> None:
    """Purpose, period, consent and floor of the file are the constraints of the offer, which is named after them."""
    found = publish(school.settings)
    needs = requirements(parse_policy(found.dataset.offer.document()))
    assert (needs.consent, needs.cohort_floor, needs.purposes) == (True, 10, (PURPOSE,))
    school.file.write_text(school.file.read_text().replace("2036", "2037"))
    assert publish(school.settings).dataset.offer.id != found.dataset.offer.id


def test_publishing_again_changes_nothing(school: ElmSchool) -> None:
    """The same file over the same source keeps offer and notice as they are."""
    clock = Clock()
    first = publish(school.settings, clock)
    clock.advance(days=1)
    again = publish(school.settings, clock)
    assert (again.dataset, again.notice) == (first.dataset, first.notice)


def test_a_notice_that_says_something_else_gets_a_new_version(school: ElmSchool) -> None:
    """Whoever changes the recipients publishes the next version of the notice."""
    first = publish(school.settings)
    assert first.notice.purposes[0].algorithm_class == ALGORITHM
    assert first.notice.texts["en"].purposes[PURPOSE] == "help teachers see what is hard"
    school.file.write_text(school.file.read_text().replace("did:web:ai.example", "did:web:other.example"))
    second = publish(school.settings)
    assert (first.notice.version, second.notice.version) == (1, 2)
    assert first.notice.material(PURPOSE) != second.notice.material(PURPOSE)


def test_exact_counts_stay_in_a_private_file(school: ElmSchool) -> None:
    """The learning room reads shape, features and training rows from a file that only the owner can read."""
    found = publish(school.settings)
    file = school.settings.folder / "state" / "facts" / "answers.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    facts = ParticipantSnapshots(school.settings, b"x" * 16).facts(school.dataset_id)
    assert facts == {
        "shape": "responses",
        "features": found.dataset.properties["features"],
        "train_rows": found.facts.train_rows,
    }
    assert 0 < found.facts.train_rows < found.facts.rows


def test_the_features_digest_is_the_views(school: ElmSchool) -> None:
    """Providers and AI providers name the same columns by the same digest."""
    view = dataset_view(DatasetFolder(school.settings).named("answers"))
    assert publish(school.settings).dataset.properties["features"] == output_digest(view)


def test_an_empty_school_is_refused(school: ElmSchool) -> None:
    """A source without a row publishes nothing at all."""
    (school.source / "statements.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"answers\.toml: the view finds no row"):
        publish(school.settings)
    with open_publisher(school.settings, now=Clock()) as publisher:
        assert publisher.store.dataset(school.dataset_id) is None
        assert publisher.consents.notices() == []
    assert DatasetFolder(school.settings).facts(school.dataset_id) is None


def test_a_missing_source_is_refused(school: ElmSchool) -> None:
    """A folder that is not there is told in the source's own sentence."""
    (school.source / "statements.jsonl").unlink()
    with pytest.raises(SourceError, match=r"check the folder and the parameters"):
        publish(school.settings)


def test_a_policy_file_says_everything(school: ElmSchool) -> None:
    """An ODRL policy beside the dataset file becomes the offer; one that names no purpose is refused."""
    terms = {"permission": [{"action": "use", "constraint": []}]}
    constraint = {"leftOperand": "purpose", "operator": "eq", "rightOperand": PURPOSE}
    policy = school.file.parent / "policy.json"
    text = school.file.read_text(encoding="utf-8")
    start, end = text.index("[policy]"), text.index("[notice]")
    school.file.write_text(text[:start] + '[policy]\nfile = "policy.json"\n\n' + text[end:], encoding="utf-8")
    for content, said in (
        (None, "cannot be read"),
        ("{", "it is not JSON"),
        ("{}", "at least one permission"),
        (json.dumps(terms), "names no purpose"),
    ):
        if content is not None:
            policy.write_text(content, encoding="utf-8")
        with pytest.raises(DatasetError, match=said):
            publish(school.settings)
    terms["permission"][0]["constraint"] = [constraint]
    policy.write_text(json.dumps(terms), encoding="utf-8")
    assert publish(school.settings).dataset.offer.rules == terms


def test_a_meaning_for_no_column_is_refused(school: ElmSchool) -> None:
    """A column that the view does not have cannot be explained."""
    school.file.write_text(school.file.read_text().replace("[columns]\n", '[columns]\nage = "years"\n'))
    with pytest.raises(DatasetError, match=r"\[columns\] age is not a column of the view"):
        publish(school.settings)


@pytest.mark.parametrize(
    ("rows", "band"), [(0, "0-10"), (9, "0-10"), (10, "10-100"), (999, "100-1000"), (1000, "1000-10000")]
)
def test_bands_are_powers_of_ten(rows: int, band: str) -> None:
    """A count is told by its order of magnitude."""
    assert rows_band(rows) == band


def test_the_command_publishes_lists_and_withdraws(tmp_path: Path) -> None:
    """An operator publishes by name, sees what is in the catalog, and takes it out again."""
    school, run = elm_school(tmp_path), CliRunner()
    folder = str(school.settings.folder)
    (school.file.parent / "broken.toml").write_text("title = 1\n", encoding="utf-8")
    published = json.loads(run.invoke(app, ["publish", folder, "answers", "--json"]).stdout)
    assert (published["id"], published["notice"]["version"]) == (school.dataset_id, 1)
    assert published["rows"] > published["train_rows"]
    assert "train when everybody consents" in run.invoke(app, ["publish", folder, str(school.file)]).stdout
    listed = {row["name"]: row for row in json.loads(run.invoke(app, ["list", folder, "--json"]).stdout)}
    assert listed["answers"]["published"]
    assert listed["broken"]["problem"].startswith("broken.toml: ")
    assert "published" in run.invoke(app, ["list", folder]).stdout
    school.file.unlink()
    assert "out of the catalog" in run.invoke(app, ["withdraw", folder, "answers"]).stdout
    again = run.invoke(app, ["withdraw", folder, "answers"])
    assert isinstance(again.exception, DatasetError)


def test_a_file_where_no_worker_looks_is_refused(tmp_path: Path) -> None:
    """A dataset file outside the participant's folder would be published and never found again."""
    school, stray = elm_school(tmp_path), tmp_path / "stray.toml"
    stray.write_text(school.file.read_text(), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"put it there, where the workers look"):
        DatasetFolder(school.settings).named(str(stray))
    with pytest.raises(DatasetError, match=r"there is no dataset oak .*\(there: answers\)"):
        DatasetFolder(school.settings).named("oak")
