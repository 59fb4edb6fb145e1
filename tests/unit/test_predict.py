"""Scoring a source's rows with a trained model, through the command, in the real sandbox."""

import csv
import dataclasses
import io
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import save
from typer.testing import CliRunner

from connector.cli.predict import add_predict_command
from connector.reporting.build_output import MODEL_FORMAT
from connector.reporting.model_file import TrainedModel, read_model
from connector.reporting.scoring import (
    PredictionError,
    ViewMismatchError,
    check_view,
    prediction_sandbox,
    score_rows,
)
from connector.sandbox.sandbox import Sandbox
from connector.sources.encoding import encode
from connector.sources.opened import OpenedSource, open_source
from connector.sources.providers import bundled_views, load_view
from connector.sources.source import Location
from learning.metrics import exact_auc
from learning.models import ModelSpec, initial_weights, model_document, parse_model, save_weights
from learning.splits import TEST
from learning.steps import LocalTraining, Step, parse_result, step_document
from learning.views import FeatureView, output_digest, parse_view
from policies.canonical import canonical_json, sha256_hex

HEART = load_view(next(path for path in bundled_views() if path.stem == "heart-disease"))
LOGISTIC = parse_model({"kind": "logistic-regression", "inputs": 13})
LOCAL = LocalTraining(optimiser="adam", learning_rate=0.01, batch_size=16, epochs=1)
ANSWERS = """
name = "answers"
shape = "responses"
subject = "learner"
[source]
kind = "csv"
[source.tables.answers]
files = "answers.csv"
subject = "learner"
[responses]
skills = "skill"
vocabulary = 3
order = "step"
"""


def heart_folder() -> Path:
    """Return the folder of the four hospitals' files: $ORCHARD_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("ORCHARD_DATA", Path(__file__).parents[3] / "shared" / "data"))
    return root / "heart-disease"


def heart_source(hospital: str = "cleveland") -> OpenedSource:
    """Return one hospital's rows."""
    return open_source(HEART, Location(folder=heart_folder(), parameters={"hospital": hospital}))


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox that can train and score."""
    box = prediction_sandbox(tmp_path_factory.mktemp("box"))
    yield box
    box.stop()


@pytest.fixture(scope="module")
def heart_model(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a logistic regression trained on one hospital."""
    source = heart_source()
    arrays = encode(HEART, source.read(None, str), source.parameters)
    start = save_weights(LOGISTIC, initial_weights(LOGISTIC, seed=1))
    step = Step(mode="central", model=LOGISTIC, local=LOCAL, seed=5, max_epochs=20)
    folder = tmp_path_factory.mktemp("training")
    inputs, outputs = folder / "in", folder / "out"
    inputs.mkdir()
    outputs.mkdir()
    files = {"step.json": canonical_json(step_document(step)), "weights.safetensors": start}
    for name, data in (files | {"data.safetensors": save(arrays)}).items():
        (inputs / name).write_bytes(data)
    done = sandbox.run(inputs, outputs, seconds=60, memory_mb=2048)
    trained = parse_result(step, done.output.read_bytes()).weights
    assert trained is not None
    weights = save({"linear.weight": trained[:13].reshape(1, 13), "linear.bias": trained[13:]})
    return model_folder(folder / "model", LOGISTIC, weights, HEART)


def model_folder(folder: Path, spec: ModelSpec, weights: bytes, view: FeatureView) -> Path:
    """Write a model as a job does."""
    folder.mkdir()
    card = {
        "format": MODEL_FORMAT,
        "title": "A model",
        "model": model_document(spec),
        "shape": view.shape,
        "features": output_digest(view),
        "view_output": None,
        "weights": {"sha256": sha256_hex(weights)},
    }
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def command() -> typer.Typer:
    """The command alone."""
    app = typer.Typer()
    add_predict_command(app)
    return app


def test_the_scores_rank_the_rows_of_another_hospital(sandbox: Sandbox, heart_model: Path) -> None:
    """A model trained in Cleveland ranks the patients of another hospital far better than chance."""
    source = heart_source("hungarian")
    table = source.read(None, str)
    arrays = encode(HEART, table, source.parameters)
    scores = score_rows(read_model(heart_model), source, sandbox)
    assert [score.number for score in scores] == list(range(1, table.data.num_rows + 1))
    assert [score.subject for score in scores] == table.data.column("patient").to_pylist()
    test = arrays["split"] == TEST
    auc = exact_auc(np.array([score.score for score in scores])[test], arrays["y"][test])
    assert auc is not None
    assert auc > 0.8


def test_answers_are_scored_per_learner_in_order(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each answer but a learner's first has a score, under the learner's own id, whatever the file's order."""
    view = parse_view(tomllib.loads(ANSWERS))
    rows = [
        "learner,item,skill,correct,step",
        "b,i,0,1,2",
        "a,i,1,0,1",
        "b,i,2,1,1",
        "a,i,0|1,1,3",
        "a,i,1,1,2",
        "c,i,0,1,1",
    ]
    (tmp_path / "answers.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    spec = parse_model({"kind": "dkt", "skills": 3, "embedding": 2, "hidden": 2})
    weights = save_weights(spec, initial_weights(spec, seed=2))
    model = read_model(model_folder(tmp_path / "model", spec, weights, view))
    check_view(model, view)
    scores = score_rows(model, open_source(view, Location(folder=tmp_path)), sandbox)
    assert [(score.subject, score.number) for score in scores] == [("a", 2), ("a", 3), ("b", 2)]
    assert all(0 < score.score < 1 for score in scores)


def test_the_command_writes_csv(command: typer.Typer, heart_model: Path, tmp_path: Path) -> None:
    """`orchard predict` with a bundled view writes one line a patient."""
    out = tmp_path / "scores.csv"
    arguments = ["--model", str(heart_model), "--view", "heart-disease", "--data", str(heart_folder())]
    result = CliRunner().invoke(command, [*arguments, "--set", "hospital=va", "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["row", "subject", "score"]
    assert len(rows) == len({row["subject"] for row in rows}) == 130
    assert f"130 scores written to {out}" in result.output


def test_the_command_prints_json(command: typer.Typer, heart_model: Path) -> None:
    """--json gives an object for programs on standard output."""
    arguments = ["--model", str(heart_model / "model.safetensors"), "--view", "heart-disease"]
    arguments += ["--data", str(heart_folder()), "--set", "hospital=switzerland", "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["model"] == "A model"
    assert set(document["scores"][0]) == {"subject", "number", "score"}


def test_another_view_is_refused(heart_model: Path) -> None:
    """A view with other columns, another width or another shape does not reach the sandbox."""
    model = read_model(heart_model)
    features = list(HEART.features)
    renamed = HEART.model_copy(update={"features": (features[0].model_copy(update={"column": "years"}), *features[1:])})
    with pytest.raises(ViewMismatchError, match="yields other columns"):
        check_view(model, renamed)
    with pytest.raises(ViewMismatchError, match="takes 13 columns, the view heart-disease yields 12"):
        check_view(model, HEART.model_copy(update={"features": tuple(features[1:])}))
    with pytest.raises(ViewMismatchError, match="takes outcomes, the view answers yields responses"):
        check_view(model, parse_view(tomllib.loads(ANSWERS)))


def test_a_model_that_names_the_view_itself_is_accepted(heart_model: Path) -> None:
    """A plan may name another view of the same output; the output recorded beside the model decides then."""
    model = dataclasses.replace(read_model(heart_model), features="00" * 32)
    with pytest.raises(ViewMismatchError):
        check_view(model, HEART)
    check_view(dataclasses.replace(model, view_output=output_digest(HEART)), HEART)


def test_a_step_that_is_stopped_scores_nothing(sandbox: Sandbox, heart_model: Path) -> None:
    """The sandbox's reason reaches the caller with its code."""
    with pytest.raises(PredictionError, match="nothing was scored: the sandbox says timeout") as caught:
        score_rows(read_model(heart_model), heart_source(), sandbox, seconds=0.001)
    assert caught.value.code == "sandbox-timeout"


def test_a_damaged_model_is_one_sentence(command: typer.Typer, heart_model: Path, tmp_path: Path) -> None:
    """A model card that is cut off says so; nothing is written."""
    shutil.copytree(heart_model, tmp_path / "model")
    (tmp_path / "model" / "model.json").write_text('{"format"', encoding="utf-8")
    out = tmp_path / "scores.csv"
    arguments = ["--model", str(tmp_path / "model"), "--view", "heart-disease", "--out", str(out)]
    result = CliRunner().invoke(command, arguments)
    assert "was changed or cut off" in str(result.exception)
    assert not out.exists()


def test_the_model_is_a_value(heart_model: Path) -> None:
    """A loaded model does not print its weights."""
    model = read_model(heart_model)
    assert isinstance(model, TrainedModel)
    assert "weights" not in repr(model)
