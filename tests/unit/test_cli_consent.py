"""`orchard consent import`: one way in for an institution's list, whether it is a table or JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from connector.cli.consent_list import ConsentListError
from connector.cli.main import app
from connector.datasets.desk import open_publisher
from connector.foundation import utc_now
from tests.support.datasets import PURPOSE, ElmSchool, elm_school

HEADER = "subject,decision,country,birth_year,guardian,verification\n"
TABLE = """\
subject,decision,country,birth_year,guardian,verification
s-1,grant,DE,1990,,
s-2,refuse,DE,1991,,
s-3,grant,DE,2015,p-3,school-register
"""


@pytest.fixture
def school(tmp_path: Path) -> ElmSchool:
    """Give a school that has published its dataset."""
    made = elm_school(tmp_path)
    with open_publisher(made.settings, now=utc_now) as publisher:
        publisher.publish(publisher.folder.named("answers"))
    return made


def take(school: ElmSchool, text: str, *more: str, name: str = "list.csv") -> Result:
    """Import a file of this text."""
    file = school.settings.folder / name
    file.write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["consent", "import", str(school.settings.folder), str(file), *more])


def test_a_table_is_taken_once_and_judged_row_by_row(school: ElmSchool) -> None:
    """The same table again changes nothing; a row that is refused names its line and stops no other."""
    about = ("--dataset", "answers", "--any-subject")
    assert "3 answers recorded, 0 known already, 0 refused." in take(school, TABLE, *about).output
    assert "0 answers recorded, 3 known already" in take(school, TABLE, *about).output
    more = TABLE + "s-4,grant,DE,2015,,\ns-5,grant,DE,1992,,\n"
    mixed = take(school, more, *about, "--json")
    assert mixed.exit_code == 1
    said = json.loads(mixed.output)
    assert (said["recorded"], said["unchanged"]) == (1, 3)
    assert [(one["line"], one["code"]) for one in said["problems"]] == [(5, "guardian-needed")]


def test_a_yes_for_somebody_whom_the_source_does_not_know_is_refused(school: ElmSchool) -> None:
    """A wrong id is noticed where the source is at hand; a no needs nobody's knowledge; who is to come can be named."""
    roster = json.loads((school.source / "roster.json").read_text())["learners"]
    known = roster[0]["subject"]
    rows = f"{known},grant,DE,1990,,\nnobody-1,grant,DE,1990,,\nnobody-2,refuse,DE,1990,,\n"
    said = json.loads(take(school, HEADER + rows, "--dataset", "answers", "--json").output)
    assert said["recorded"] == 2
    assert [(one["line"], one["code"]) for one in said["problems"]] == [(3, "unknown-subject")]
    assert "nobody-1" not in json.dumps(said)
    again = take(school, HEADER + rows, "--dataset", "answers", "--any-subject")
    assert "1 answers recorded, 2 known already" in again.output


def test_rows_of_json_are_taken_too(school: ElmSchool) -> None:
    """A JSON list and a JSON object a line say the same as the API's import does."""
    with open_publisher(school.settings, now=utc_now) as desk:
        (notice,) = desk.consents.notices()
    row = {
        "event_id": "lms-1",
        "subject": "s-9",
        "decision": "grant",
        "notice_id": notice.notice_id,
        "notice_version": 1,
        "language": "en",
        "purpose": PURPOSE,
        "expressed_at": utc_now().isoformat(),
        "country": "DE",
        "attested_adult": True,
    }
    assert "1 answers recorded" in take(school, json.dumps([row]), name="list.json").output
    assert "1 known already" in take(school, json.dumps(row) + "\n", name="list.jsonl").output


@pytest.mark.parametrize(
    ("name", "text", "more", "words"),
    [
        ("list.csv", TABLE, (), "name it with --dataset"),
        ("list.json", "[]", ("--dataset", "answers"), "leave --dataset and --purpose out"),
        ("list.csv", "subject,mood\n", ("--dataset", "answers"), "lacks decision"),
        ("list.csv", "subject,decision,mood\n", ("--dataset", "answers"), "unknown column mood"),
        ("list.csv", "subject,decision\nsecret-name,maybe\n", ("--dataset", "answers"), "line 2: needs a subject"),
        ("list.csv", "subject,decision,birth_year\ns,grant,old\n", ("--dataset", "answers"), "is not a number"),
        ("list.json", "{", (), "is neither a JSON list"),
    ],
)
def test_a_list_that_cannot_be_read_says_where(
    school: ElmSchool, name: str, text: str, more: tuple[str, ...], words: str
) -> None:
    """Whoever wrote the list learns which line or column is wrong; no value of it is repeated."""
    refused = take(school, text, *more, name=name)
    assert isinstance(refused.exception, ConsentListError)
    assert words in str(refused.exception)
    assert "secret-name" not in str(refused.exception)
