"""A job's output folder: whole or absent, never over somebody's files, and true to the signed report."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest

from connector.reporting import build_output
from connector.reporting.build_output import FILES, OutputError, check_destination, write_output
from connector.reporting.model_file import ModelFileError, read_model
from connector.reporting.observations import CardStep, band
from learning.report import REPORT_KIND
from policies.canonical import sha256_hex
from policies.signing import verify
from tests.support.reports import NAMES, Sample, sample


@pytest.fixture(scope="module")
def finished() -> Sample:
    """The usual job, shorter."""
    return sample(rounds=12)


def write(finished: Sample, folder: Path, *, force: bool = False) -> build_output.Output:
    """Write the job's output."""
    return write_output(
        folder, finished.document, finished.weights, finished.model, None, finished.observations, force=force
    )


def test_the_folder_holds_the_four_files(finished: Sample, tmp_path: Path) -> None:
    """Model, model card, report and page, and nothing left beside them."""
    found = write(finished, tmp_path / "new" / "out")
    assert {path.name for path in found.folder.iterdir()} == FILES
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]
    assert found.weights.read_bytes() == finished.weights


def test_the_signed_part_still_verifies(finished: Sample, tmp_path: Path) -> None:
    """The report in the folder is the signed document; the observations beside it say that they are not."""
    whole = json.loads(write(finished, tmp_path / "out").report.read_bytes())
    assert (
        verify(REPORT_KIND, whole["report"], finished.signer.public_key)["job"] == finished.document["payload"]["job"]
    )
    assert whole["observations"]["signed"] is False


def test_the_model_card_binds_the_files_together(finished: Sample, tmp_path: Path) -> None:
    """The model card names weights and report by digest, and reads back as a model."""
    found = write(finished, tmp_path / "out")
    card = json.loads(found.model.read_bytes())
    assert card["weights"]["sha256"] == sha256_hex(finished.weights)
    assert card["report"]["sha256"] == sha256_hex(found.report.read_bytes())
    for place in (found.folder, found.model, found.weights):
        assert read_model(place).weights == finished.weights


def test_an_earlier_output_is_replaced(finished: Sample, tmp_path: Path) -> None:
    """A second run writes over the first one's folder, and leaves nothing beside it."""
    write(finished, tmp_path / "out")
    write(sample(rounds=2), tmp_path / "out")
    assert '"rounds": 2' in (tmp_path / "out" / "report.json").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("extra", ["thesis.txt", "report.json"])
def test_a_folder_of_somebody_is_refused(finished: Sample, tmp_path: Path, extra: str) -> None:
    """A folder that holds anything but an earlier output stays as it is."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / extra).write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="not an earlier output: choose another folder") as caught:
        write(finished, folder)
    assert caught.value.code == "output-folder-taken"
    assert [path.name for path in folder.iterdir()] == [extra]


def test_an_earlier_output_with_something_added_is_refused(finished: Sample, tmp_path: Path) -> None:
    """What a user put beside the result is not lost with the next run."""
    write(finished, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError):
        check_destination(tmp_path / "out")


def test_force_moves_a_folder_aside(finished: Sample, tmp_path: Path) -> None:
    """Even then nothing of somebody's is deleted."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine", encoding="utf-8")
    write(finished, folder, force=True)
    assert (tmp_path / "out.replaced-1" / "thesis.txt").read_text(encoding="utf-8") == "mine"
    assert {path.name for path in folder.iterdir()} == FILES


def test_an_empty_folder_is_fine(finished: Sample, tmp_path: Path) -> None:
    """A folder made for the output is taken."""
    (tmp_path / "out").mkdir()
    assert write(finished, tmp_path / "out").page.is_file()


def test_a_failure_leaves_no_folder(finished: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails half way, the earlier output is still whole and no half one lies about."""
    write(finished, tmp_path / "out")
    before = (tmp_path / "out" / "report.json").read_bytes()
    real = Path.write_bytes

    def fails(path: Path, data: bytes) -> int:
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="No space"):
        write(sample(rounds=2), tmp_path / "out")
    assert (tmp_path / "out" / "report.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_parts_that_do_not_belong_together_are_refused(finished: Sample, tmp_path: Path) -> None:
    """Weights or a spec that the report does not name make no output."""
    document = copy.deepcopy(finished.document)
    document["payload"]["weights"] = "00" * 32
    with pytest.raises(OutputError, match="names other weights"):
        write_output(tmp_path / "out", document, finished.weights, finished.model)
    assert not (tmp_path / "out").exists()


def test_no_count_of_a_card_is_written(finished: Sample, tmp_path: Path) -> None:
    """Cards reach the report as bands: the exact numbers of learners and rows are in no file."""
    found = write(finished, tmp_path / "out")
    cards = json.loads(found.report.read_bytes())["observations"]["cards"]
    assert [card["learners"] for card in cards] == ["200\u2013499", "50\u201399", "20\u201349"]
    assert "count" not in json.dumps(cards)


def test_an_unnamed_provider_stays_unnamed_in_the_report(finished: Sample, tmp_path: Path) -> None:
    """A card without consent to be named carries neither name nor participant id."""
    cards = tuple(dataclasses.replace(card, named=False) for card in finished.observations.cards)
    hidden = dataclasses.replace(finished.observations, cards=cards, events=())
    found = write_output(tmp_path / "out", finished.document, finished.weights, finished.model, None, hidden)
    written = json.dumps(json.loads(found.report.read_bytes())["observations"], ensure_ascii=False)
    assert not any(name in written for name in NAMES)
    assert "did:web" not in written


def test_a_card_made_by_hand_shows_no_count_either() -> None:
    """Counts are dropped whoever fills a card in, and a rate over fewer than ten rows with them."""
    few = {"count": 9, "positives": 3, "auc": 0.5}
    many = {"count": 10, "positives": 3, "contributors": 1, "auc": 0.6}
    step = CardStep(round=1, kind="train", metrics={"valid": few, "test": many})
    shown = {"auc": 0.6, "accuracy": None, "loss": None, "brier": None, "ece": None}
    assert step.metrics == {"test": shown}
    assert dataclasses.replace(step, round=2).metrics == step.metrics


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "under 10"), (9, "under 10"), (10, "10\u201319"), (1_234, "1,000\u20131,999"), (10**7, "1,000,000 or more")],
)
def test_bands_hide_small_counts(count: int, words: str) -> None:
    """Below ten nothing is told apart."""
    assert band(count) == words


def test_changed_weights_are_noticed(finished: Sample, tmp_path: Path) -> None:
    """A model whose weights are not the ones named is not loaded."""
    found = write(finished, tmp_path / "out")
    data = bytearray(finished.weights)
    data[-1] ^= 1
    found.weights.write_bytes(bytes(data))
    with pytest.raises(ModelFileError, match="was changed or replaced"):
        read_model(found.folder)
    with pytest.raises(ModelFileError, match="no model at"):
        read_model(tmp_path / "nowhere")
