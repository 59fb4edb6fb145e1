"""Snapshots of datasets for jobs: made once, never holding a row of a learner who has left."""

import contextlib
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from connector.datasets.desk import consent_secret
from connector.datasets.folder import DatasetFolder
from connector.demo.learners import read_roster
from connector.learner_data import ParticipantSnapshots
from learning.errors import StepFailedError
from policies.subjects import subject_ref
from tests.support.datasets import ElmSchool, elm_school


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ElmSchool:
    """Give one school for tests that leave its source as it is."""
    return elm_school(tmp_path_factory.mktemp("elm"))


@pytest.fixture
def school(tmp_path: Path) -> ElmSchool:
    """Give a school whose source a test may damage."""
    return elm_school(tmp_path)


def everybody(school: ElmSchool) -> list[str]:
    """Return the pseudonyms of all learners."""
    secret = consent_secret(school.settings)
    return [subject_ref(secret, learner.subject) for learner in read_roster(school.source / "roster.json")]


def snapshots(school: ElmSchool) -> ParticipantSnapshots:
    """Return the adapter as a worker process makes it."""
    return ParticipantSnapshots(school.settings, consent_secret(school.settings))


def folders(school: ElmSchool) -> list[Path]:
    """Return every snapshot on disk."""
    return sorted((school.settings.folder / "state" / "snapshots").glob("*/*"))


def test_only_the_given_learners_are_read(shared: ElmSchool) -> None:
    """A snapshot holds the rows of exactly the subjects it was asked for, and lies where nobody else can read it."""
    some = frozenset(everybody(shared)[:10])
    made = snapshots(shared).prepare(shared.dataset_id, "job-a", some)
    assert made.subjects == 10
    assert 0 < made.train_rows <= made.rows
    assert len(load_file(made.path)["offsets"]) == 11
    assert (len(made.learners), frozenset(made.learners)) == (10, some)
    for folder in (made.path.parent, made.path.parent.parent, made.path.parent.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600


def test_a_repeated_call_reads_nothing_again(shared: ElmSchool) -> None:
    """The same subjects again are the same snapshot, in the same process and in another one."""
    adapter, some = snapshots(shared), everybody(shared)
    first = adapter.prepare(shared.dataset_id, "job-b", frozenset(some))
    before = first.path.stat()
    assert adapter.prepare(shared.dataset_id, "job-b", frozenset(list(some))) == first
    assert snapshots(shared).prepare(shared.dataset_id, "job-b", frozenset(some)) == first
    assert first.path.stat().st_ino == before.st_ino


def test_a_learner_who_left_leaves_no_row_behind(school: ElmSchool) -> None:
    """When the subjects change, the job's earlier snapshot is gone; another job's is not."""
    adapter, some = snapshots(school), everybody(school)
    old = adapter.prepare(school.dataset_id, "job", frozenset(some))
    other = adapter.prepare(school.dataset_id, "other job", frozenset(some))
    new = adapter.prepare(school.dataset_id, "job", frozenset(some[1:]))
    assert new.subjects == old.subjects - 1
    assert not old.path.exists()
    assert folders(school) == sorted([new.path.parent, other.path.parent])


def test_a_learner_who_left_is_gone_even_when_the_source_is_too(school: ElmSchool) -> None:
    """The old snapshot is deleted before the new one is tried."""
    adapter, some = snapshots(school), everybody(school)
    old = adapter.prepare(school.dataset_id, "job", frozenset(some))
    (school.source / "statements.jsonl").write_text("no json\n", encoding="utf-8")
    with pytest.raises(StepFailedError) as caught:
        adapter.prepare(school.dataset_id, "job", frozenset(some[1:]))
    assert (caught.value.code, caught.value.final) == ("source-malformed", True)
    assert not old.path.exists()
    assert folders(school) == []


def test_a_source_that_changed_is_read_again(school: ElmSchool) -> None:
    """A new export makes a new snapshot in the next round."""
    adapter, some = snapshots(school), frozenset(everybody(school))
    old = adapter.prepare(school.dataset_id, "job", some)
    file = school.source / "statements.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[: len(lines) // 2]) + "\n", encoding="utf-8")
    assert adapter.prepare(school.dataset_id, "job", some).rows < old.rows


def test_a_source_that_disappeared_ends_the_step(school: ElmSchool) -> None:
    """The source is gone in round 2: the step fails for good, and says where to look."""
    adapter, some = snapshots(school), frozenset(everybody(school))
    adapter.prepare(school.dataset_id, "job", some)
    (school.source / "statements.jsonl").unlink()
    with pytest.raises(StepFailedError, match=r"no file elm/\*\.jsonl in the dataset's folder") as caught:
        adapter.prepare(school.dataset_id, "job", some)
    assert str(school.settings.folder.parent) not in str(caught.value)
    assert (caught.value.code, caught.value.final) == ("source-missing", True)


def test_a_dataset_without_a_file_is_told(shared: ElmSchool) -> None:
    """An agreement about a dataset whose file is gone cannot be trained under."""
    with pytest.raises(StepFailedError) as caught:
        snapshots(shared).prepare("urn:nowhere", "job", frozenset())
    assert caught.value.code == "dataset-unknown"


def test_an_unreachable_record_store_may_be_tried_again(school: ElmSchool) -> None:
    """A record store that does not answer is the world's fault: the step is not given up."""
    view = (
        'name = "lrs"\nshape = "responses"\nsubject = "subject"\n[source]\nkind = "xapi"\n[source.statements]\n'
        '[responses]\nvocabulary = ["a"]\n'
    )
    (school.settings.folder / "lrs-view.toml").write_text(view, encoding="utf-8")
    (school.settings.folder / "lrs.secret").touch(0o600)
    (school.settings.folder / "lrs.secret").write_text("user:word\n", encoding="utf-8")
    location = '[location]\nconnection = "http://127.0.0.1:9/xapi"\ncredential = "../lrs.secret"\n'
    text = school.file.read_text(encoding="utf-8").replace('"synthetic-xapi"', '"../lrs-view.toml"')
    text = text.replace('[location]\nfolder = "../source"\nparameters = { school = "elm" }\n', location)
    school.file.write_text(text, encoding="utf-8")
    with pytest.raises(StepFailedError) as caught:
        snapshots(school).prepare(school.dataset_id, "job", frozenset(everybody(school)))
    assert (caught.value.code, caught.value.final) == ("source-unreachable", False)


def test_a_database_is_read_anew_each_time(school: ElmSchool) -> None:
    """A source that cannot say whether it changed is read again, and its older snapshot does not stay."""
    with contextlib.closing(sqlite3.connect(school.settings.folder / "school.sqlite")) as base:
        base.execute("create table answers (who text, item text, skill text, correct int, at int)")
        rows = [(f"elm-{who:04d}", f"i{at}", "a", at % 2, at) for who in range(1, 12) for at in range(6)]
        base.executemany("insert into answers values (?, ?, ?, ?, ?)", rows)
        base.commit()
    view = (
        'name = "base"\nshape = "responses"\nsubject = "who"\n[source]\nkind = "sql"\nquery = "select * from answers"\n'
        '[responses]\nskills = "skill"\norder = "at"\nvocabulary = ["a"]\n'
    )
    (school.settings.folder / "base-view.toml").write_text(view, encoding="utf-8")
    text = school.file.read_text(encoding="utf-8").replace('"synthetic-xapi"', '"../base-view.toml"')
    place = f'connection = "sqlite:///{school.settings.folder / "school.sqlite"}"\n'
    text = text.replace('folder = "../source"\nparameters = { school = "elm" }\n', place)
    school.file.write_text(text, encoding="utf-8")
    adapter, some = snapshots(school), frozenset(everybody(school))
    first = adapter.prepare(school.dataset_id, "job", some)
    with contextlib.closing(sqlite3.connect(school.settings.folder / "school.sqlite")) as base:
        base.execute("delete from answers where at > 3")
        base.commit()
    second = adapter.prepare(school.dataset_id, "job", some)
    assert (first.rows, second.rows) == (66, 44)
    assert folders(school) == [second.path.parent]


def test_processes_that_build_at_once_agree(school: ElmSchool) -> None:
    """Several workers asked for the same snapshot at once end with one, whole, and nothing half-built beside it."""
    some = frozenset(everybody(school))
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = [pool.submit(snapshots(school).prepare, school.dataset_id, "job", some) for _ in range(4)]
        made = {one.result().path for one in asked}
    assert len(made) == 1
    assert folders(school) == [made.pop().parent]


def test_forgetting_a_job_deletes_its_rows(school: ElmSchool) -> None:
    """Nothing of a job's rows is left when it has ended; forgetting twice is no error."""
    adapter = snapshots(school)
    adapter.prepare(school.dataset_id, "job", frozenset(everybody(school)))
    adapter.forget("job")
    adapter.forget("job")
    assert not list((school.settings.folder / "state" / "snapshots").iterdir())


def test_facts_of_what_was_never_published_are_empty(school: ElmSchool) -> None:
    """A plan for an unpublished dataset finds no facts, so that it is refused."""
    assert snapshots(school).facts(school.dataset_id) == {}
    assert DatasetFolder(school.settings).facts(school.dataset_id) is None


def test_holding_the_adapter_loads_no_readers() -> None:
    """The API process holds snapshots and gate without pyarrow, duckdb or torch."""
    code = "import sys, connector.learner_data; print({'pyarrow', 'duckdb', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
