"""Dataset files: what a provider writes, and what it is told when something is wrong."""

from pathlib import Path

import pytest

from connector.datasets.document import load_dataset
from connector.datasets.errors import DatasetError, DatasetUnknownError
from tests.support.datasets import DATASET

URL = "http://127.0.0.1:8471"


def written(folder: Path, text: str) -> Path:
    """Write a dataset file and return its path."""
    file = folder / "answers.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_dataset_is_named_after_its_file(tmp_path: Path) -> None:
    """Without an id of its own, a dataset's id is its file's name below the participant's public URL."""
    found = load_dataset(written(tmp_path, DATASET), URL)
    assert (found.name, found.id) == ("answers", f"{URL}/datasets/answers")
    assert load_dataset(written(tmp_path, 'id = "urn:d:1"\n' + DATASET), URL).id == "urn:d:1"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("valid_until =", "valid_untill =", "answers.toml: [policy] unknown key 'valid_untill'; did you mean 'valid_until'?"),
        ('title = "Answers"', 'titel = "Answers"', "answers.toml: the key title is missing"),
        ("[notice.texts.en]\ntitle", "[notice.texts.en]\ntitel", "answers.toml: the key notice.texts.en.title is missing"),
        ("valid_from = 2026", "valid_from = 2046", "answers.toml: policy: valid_until is not after valid_from"),
        ("valid_from = 2026-01-01T00:00:00Z\n", "", "valid_from and valid_until"),
        ("valid_until = 2036-01-01T00:00:00Z", "valid_until = 2036-01-01T00:00:00", "policy.valid_until"),
        ("[notice]\n", "[policy.more]\n[notice]\n", "[policy] unknown key 'more'"),
        ("[policy]\n", "[policy]\nconsent = false\n", "nobody's rows are read without their consent"),
        ("[policy]\n", "[policy]\ncohort_floor = 3\n", "policy.cohort_floor"),
        ("[policy]\n", '[policy]\nfile = "policy.json"\n', "leave the other keys out"),
        ("[location]\n", "[location\n", "answers.toml is not TOML"),
        ("[location]\n", '[location]\nconnection = "a"\nconnection_file = "b"\n', "either connection or connection_file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A mistake is told with the file, the place, and the nearest known key."""
    assert old in DATASET
    with pytest.raises(DatasetError) as caught:
        load_dataset(written(tmp_path, DATASET.replace(old, new)), URL)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_connection_is_never_repeated(tmp_path: Path) -> None:
    """A connection may hold a password: neither an error nor a repr shows it."""
    text = DATASET.replace("[location]\n", '[location]\nconnection = "postgresql://u:hunter2@db/x"\n')
    assert "hunter2" not in repr(load_dataset(written(tmp_path, text), URL))
    with pytest.raises(DatasetError) as caught:
        load_dataset(written(tmp_path, text.replace('hunter2@db/x"', 'hunter2@db/x"\ncredentials = "hunter2"')), URL)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    """A missing file is told apart from a malformed one."""
    with pytest.raises(DatasetUnknownError, match=r"there is no dataset file"):
        load_dataset(tmp_path / "none.toml", URL)
