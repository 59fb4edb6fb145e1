"""A step directory in, one file out."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch.nn.functional import binary_cross_entropy_with_logits

from learning.models import (
    Dkt,
    LogisticRegression,
    Mlp,
    ModelSpec,
    flatten,
    initial_weights,
    parameter_count,
    save_weights,
)
from learning.steps import (
    LocalTraining,
    Step,
    StepDocumentError,
    StepResult,
    StepResultError,
    local_document,
    parse_local,
    parse_result,
    parse_step,
    step_document,
)
from learning.training import worker
from learning.training.batches import RowBatch, SnapshotError
from learning.training.fitting import Fitting, TrainingDivergedError
from learning.training.networks import build, predict
from learning.training.step import run_step

Arrays = dict[str, NDArray[Any]]
LOCAL = LocalTraining(optimiser="sgd", learning_rate=0.1, batch_size=8, epochs=2, clip_norm=1.0)
ADAM = LocalTraining(optimiser="adam", learning_rate=0.02, batch_size=8, epochs=1)
SPECS: tuple[ModelSpec, ...] = (
    LogisticRegression(inputs=3),
    Mlp(inputs=3, hidden=(8,)),
    Dkt(skills=6, embedding=4, hidden=8),
)


def outcomes() -> Arrays:
    """Return 240 rows whose label follows the first feature."""
    generator = np.random.Generator(np.random.PCG64(7))
    features = generator.standard_normal((240, 3)).astype(np.float32)
    labels = (features[:, 0] + 0.3 * generator.standard_normal(240) > 0).astype(np.uint8)
    return {"X": features, "y": labels, "split": (np.arange(240) % 5 // 2).astype(np.uint8)}


def responses() -> Arrays:
    """Return 120 learners of 1 to 20 answers with one or two skills; able learners answer rightly."""
    generator = np.random.Generator(np.random.PCG64(8))
    lengths = generator.integers(1, 21, 120)
    total, able = int(lengths.sum()), np.repeat(generator.random(120) < 0.5, lengths)
    counts = generator.integers(1, 3, total)
    return {
        "offsets": np.cumsum([0, *lengths]),
        "skill_offsets": np.cumsum([0, *counts]),
        "skills": generator.integers(0, 6, int(counts.sum())).astype(np.int32),
        "correct": (generator.random(total) < np.where(able, 0.9, 0.1)).astype(np.uint8),
        "split": (np.arange(120) % 5 // 2).astype(np.uint8),
    }


def snapshot(spec: ModelSpec) -> Arrays:
    """Return a snapshot of the shape the model takes."""
    return responses() if isinstance(spec, Dkt) else outcomes()


def lay_out(folder: Path, step: Step, arrays: Arrays, seed: int = 1) -> Path:
    """Write a step directory and return it."""
    folder.mkdir()
    (folder / "step.json").write_text(json.dumps(step_document(step)))
    (folder / "weights.safetensors").write_bytes(save_weights(step.model, initial_weights(step.model, seed=seed)))
    (folder / "data.safetensors").write_bytes(save(arrays))
    return folder


def run(folder: Path, step: Step, arrays: Arrays) -> StepResult:
    """Run a step through its files and return the checked result."""
    out = folder / "out"
    out.mkdir()
    worker.run(lay_out(folder / "in", step, arrays), out)
    assert [path.name for path in out.iterdir()] == ["out.safetensors"]
    return parse_result(step, (out / "out.safetensors").read_bytes())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("local", [LOCAL, ADAM, replace(LOCAL, epochs=None, steps=30, proximal_mu=0.1)])
def test_training_twice_gives_the_same_bytes(spec: ModelSpec, local: LocalTraining, tmp_path: Path) -> None:
    """The same step directory gives byte-equal output, another seed another update."""
    step = Step(mode="train", model=spec, local=local, seed=5)
    contents = []
    for name, seeded in (("first", step), ("again", step), ("other", replace(step, seed=6))):
        (out := tmp_path / f"{name}-out").mkdir()
        inputs = lay_out(tmp_path / name, seeded, snapshot(spec))
        run_step(step_document(seeded), inputs, out)
        contents.append((out / "out.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("spec", SPECS)
def test_training_gives_metrics_of_the_given_weights_and_a_delta(spec: ModelSpec, tmp_path: Path) -> None:
    """A train step reports the given weights' metrics, the rows it trained on, and a finite non-zero update."""
    arrays = snapshot(spec)
    step = Step(mode="train", model=spec, local=LOCAL, seed=1)
    for name in ("t", "e"):
        (tmp_path / name).mkdir()
    trained = run(tmp_path / "t", step, arrays)
    evaluated = run(tmp_path / "e", replace(step, mode="evaluate"), arrays)
    assert trained.delta is not None
    assert np.abs(trained.delta).max() > 0
    sizes = np.maximum(np.diff(arrays["offsets"]) - 1, 0) if isinstance(spec, Dkt) else np.ones(240, dtype=int)
    for number, split in enumerate(("valid", "test"), start=1):
        assert trained.metrics[split]["count"][0] == sizes[arrays["split"] == number].sum()
        assert all((trained.metrics[split][k] == evaluated.metrics[split][k]).all() for k in trained.metrics[split])
    assert trained.train_rows == sizes[arrays["split"] == 0].sum()
    assert (evaluated.delta, evaluated.train_rows) == (None, 0)


@pytest.mark.parametrize("spec", SPECS)
def test_baseline_learns_what_there_is_to_learn(spec: ModelSpec, tmp_path: Path) -> None:
    """Training alone with early stopping ranks held-out rows well, and says after which epoch it was best."""
    step = Step(mode="baseline", model=spec, local=replace(ADAM, learning_rate=0.05), seed=1, max_epochs=20)
    result = run(tmp_path, step, snapshot(spec))
    assert result.weights is not None
    assert 1 <= result.epochs <= 20
    assert result.metrics["test"]["auc_sum"][0] > 0.8


def test_finetuning_keeps_the_given_weights_unless_better(tmp_path: Path) -> None:
    """When local data teaches the opposite of what validates, the given weights come back untouched, as epoch 0."""
    spec = SPECS[0]
    arrays = outcomes()
    # Training rows with their labels turned round, and one feature, so that no epoch can rank better.
    arrays["X"][:, 1:] = 0
    arrays["y"] = np.where(arrays["split"] == 0, 1 - arrays["y"], arrays["y"]).astype(np.uint8)
    start = {"linear.weight": np.array([[0.5, 0, 0]], np.float32), "linear.bias": np.zeros(1, np.float32)}
    step = Step(mode="finetune", model=spec, local=ADAM, seed=1, max_epochs=6)
    inputs = lay_out(tmp_path / "in", step, arrays)
    (inputs / "weights.safetensors").write_bytes(save_weights(spec, start))
    worker.run(inputs, tmp_path)
    result = parse_result(step, (tmp_path / "out.safetensors").read_bytes())
    assert result.epochs == 0
    assert result.weights is not None
    assert (result.weights == flatten(spec, start)).all()


@pytest.mark.parametrize("spec", SPECS)
def test_prediction_scores_every_row_in_order(spec: ModelSpec, tmp_path: Path) -> None:
    """Scores come in the snapshot's order; for answers, one for each but a learner's first."""
    arrays = snapshot(spec)
    step = Step(mode="predict", model=spec, local=LOCAL, seed=1)
    result = run(tmp_path, step, arrays)
    assert result.rows is not None
    if isinstance(spec, Dkt):
        assert result.rows.tolist() == sorted(set(range(arrays["offsets"][-1])) - set(arrays["offsets"][:-1].tolist()))
    else:
        assert result.rows.tolist() == list(range(240))


def test_knowledge_tracing_equals_the_definition() -> None:
    """Scores of ragged learners in one grid equal an LSTM written out by hand, learner by learner."""
    spec = Dkt(skills=6, embedding=4, hidden=8)
    weights, arrays = initial_weights(spec, seed=2), responses()
    # The scoring path of a predict step, without files.
    from learning.training.step import compute  # noqa: PLC0415 - torch only where a test needs it

    scores = compute(Step(mode="predict", model=spec, local=LOCAL, seed=1), weights, arrays)
    by_hand = [value for learner in range(120) for value in _trace(spec, weights, arrays, learner)]
    assert scores["scores"] == pytest.approx(np.array(by_hand), abs=1e-5)


def _trace(spec: Dkt, weights: Arrays, arrays: Arrays, learner: int) -> list[float]:
    hidden = cell = np.zeros(spec.hidden)
    scores = []
    for event in range(arrays["offsets"][learner], arrays["offsets"][learner + 1]):
        skills = arrays["skills"][arrays["skill_offsets"][event] : arrays["skill_offsets"][event + 1]]
        if event > arrays["offsets"][learner]:
            scores.append(_sigmoid((weights["output.weight"] @ hidden + weights["output.bias"])[skills].mean()))
        seen = weights["embedding.weight"][skills + spec.skills * int(arrays["correct"][event])].mean(0)
        gates = weights["lstm.weight_ih_l0"] @ seen + weights["lstm.bias_ih_l0"]
        into, forget, new, out = np.split(gates + weights["lstm.weight_hh_l0"] @ hidden + weights["lstm.bias_hh_l0"], 4)
        cell = _sigmoid(forget) * cell + _sigmoid(into) * np.tanh(new)
        hidden = _sigmoid(out) * np.tanh(cell)
    return scores


def _sigmoid(value: Any) -> Any:
    return 1 / (1 + np.exp(-value))


@pytest.mark.parametrize("spec", SPECS)
def test_no_training_rows_mean_no_update(spec: ModelSpec, tmp_path: Path) -> None:
    """A contributor whose learners have all withdrawn from training gives a zero update of zero rows."""
    arrays = {**snapshot(spec)}
    arrays["split"] = np.full_like(arrays["split"], 2)
    result = run(tmp_path, Step(mode="train", model=spec, local=LOCAL, seed=1), arrays)
    assert result.delta is not None
    assert (result.train_rows, np.abs(result.delta).max(), result.metrics["valid"]["count"][0]) == (0, 0, 0)


def test_an_empty_snapshot_is_no_error(tmp_path: Path) -> None:
    """No rows at all is a legal snapshot with nothing to say."""
    for spec in SPECS:
        arrays = {name: array[:1] if "offsets" in name else array[:0] for name, array in snapshot(spec).items()}
        (folder := tmp_path / type(spec).__name__).mkdir()
        assert run(folder, Step(mode="train", model=spec, local=LOCAL, seed=1), arrays).train_rows == 0


def test_the_proximal_term_holds_the_weights_back(tmp_path: Path) -> None:
    """A heavier proximal term gives a smaller update."""
    norms = []
    for name, mu in (("free", 0.0), ("held", 5.0)):
        (folder := tmp_path / name).mkdir()
        step = Step(mode="train", model=SPECS[0], local=replace(LOCAL, proximal_mu=mu), seed=1)
        delta = run(folder, step, outcomes()).delta
        assert delta is not None
        norms.append(np.linalg.norm(delta))
    assert norms[1] < norms[0] / 2


def test_steps_go_on_through_the_data() -> None:
    """Sixty steps of eight rows over 96 training rows are the same as five epochs."""
    from learning.training.step import compute  # noqa: PLC0415 - torch only where a test needs it

    weights, arrays = initial_weights(SPECS[0], seed=1), outcomes()
    step = Step(mode="train", model=SPECS[0], local=replace(LOCAL, epochs=5), seed=1, splits=())
    by_epochs = compute(step, weights, arrays)["delta"]
    by_steps = compute(replace(step, local=replace(LOCAL, epochs=None, steps=60)), weights, arrays)["delta"]
    assert (by_epochs == by_steps).all()


def test_divergence_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A learning rate that drives weights to infinity ends in a named error, and no result file."""
    arrays = outcomes()
    arrays["X"] *= np.float32(1e30)
    step = Step(mode="train", model=SPECS[1], local=replace(LOCAL, learning_rate=100.0, clip_norm=None), seed=1)
    inputs = lay_out(tmp_path / "in", step, arrays)
    with pytest.raises((TrainingDivergedError, ValueError)):
        worker.run(inputs, tmp_path)
    assert not (tmp_path / "out.safetensors").exists()


def test_snapshots_that_do_not_fit_are_refused() -> None:
    """Missing, retyped, unfitting and out-of-range arrays are named before torch sees them."""
    from learning.training.batches import read_examples  # noqa: PLC0415 - torch only where a test needs it

    table, answers = outcomes(), responses()
    for spec, arrays in (
        (SPECS[0], {"X": table["X"]}),
        (LogisticRegression(inputs=4), table),
        (SPECS[0], {**table, "X": table["X"].astype(np.float64)}),
        (SPECS[0], {**table, "y": table["y"] + np.uint8(1)}),
        (SPECS[0], {**table, "X": np.full_like(table["X"], np.nan)}),
        (SPECS[2], table),
        (Dkt(skills=3, embedding=4, hidden=8), answers),
        (SPECS[2], {**answers, "offsets": answers["offsets"] + 1}),
        (SPECS[2], {**answers, "skill_offsets": answers["skill_offsets"][:-1]}),
        (SPECS[2], {**answers, "split": answers["split"][:-1]}),
    ):
        with pytest.raises(SnapshotError):
            read_examples(spec, arrays)


def test_step_documents_read_back_and_refuse_the_unknown() -> None:
    """A step written as JSON is read back; an unknown mode, member or split is refused."""
    step = Step(mode="finetune", model=SPECS[2], local=LOCAL, seed=9, small=True, splits=("test",), max_epochs=6)
    document: dict[str, Any] = json.loads(json.dumps(step_document(step)))
    assert parse_step(document) == step
    for change in (
        {"mode": "steal"},
        {"hook": "os"},
        {"splits": ["all"]},
        {"seed": -1},
        {"small": 1},
        {"max_epochs": 0},
    ):
        with pytest.raises(StepDocumentError):
            parse_step({**document, **change})


def test_local_documents_read_back_and_refuse_the_unknown() -> None:
    """The plan's local part is read back; both or neither of epochs and steps, and odd values, are refused."""
    document = local_document(LOCAL)
    assert parse_local(document) == LOCAL
    changes: list[dict[str, Any]] = [
        {"steps": 3}, {"epochs": None}, {"optimiser": "lbfgs"}, {"learning_rate": 0}, {"batch_size": 2.5},
        {"clip_norm": -1}, {"proximal_mu": float("nan")}, {"momentum": 0.9},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(StepDocumentError):
            parse_local({**document, **change})


def test_results_are_trusted_in_nothing(tmp_path: Path) -> None:
    """Output that is missing, extra, misshapen, not finite or contradicts itself is refused."""
    step = Step(mode="train", model=SPECS[0], local=LOCAL, seed=1)
    worker.run(lay_out(tmp_path / "in", step, outcomes()), tmp_path)
    good = load((tmp_path / "out.safetensors").read_bytes())
    size = parameter_count(SPECS[0])
    changes: list[Arrays] = [
        {"delta": np.zeros(size + 1, np.float32)}, {"delta": np.full(size, np.nan, np.float32)},
        {"delta": np.zeros(size)}, {"leak": np.zeros(5)}, {"train_rows": np.array([-1])},
        {"metrics.test.count": good["metrics.test.count"] + 1}, {"metrics.test.loss_sum": np.array([-1.0])},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(StepResultError):
            parse_result(step, save({**good, **change}))
    with pytest.raises(StepResultError):
        parse_result(step, save({name: array for name, array in good.items() if name != "delta"}))
    with pytest.raises(StepResultError):
        parse_result(step, b"not a file")


def test_the_worker_runs_as_a_plain_process(tmp_path: Path) -> None:
    """The command line writes the same bytes as the call, and a failure prints its code only."""
    step = Step(mode="train", model=SPECS[2], local=LOCAL, seed=1)
    inputs = lay_out(tmp_path / "in", step, responses())
    outs = [tmp_path / "call", tmp_path / "process"]
    for out in outs:
        out.mkdir()
    worker.run(inputs, outs[0])
    command = [sys.executable, "-m", "learning.training.worker", str(inputs), str(outs[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (outs[0] / "out.safetensors").read_bytes() == (outs[1] / "out.safetensors").read_bytes()
    (inputs / "data.safetensors").write_bytes(b"broken")
    failed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (failed.returncode, failed.stderr) == (1, "snapshot_invalid\n")


def test_preloading_leaves_one_thread_and_changes_no_result(tmp_path: Path) -> None:
    """A preloaded process computes the same bytes on one thread."""
    import torch  # noqa: PLC0415 - torch only where a test needs it

    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    step = Step(mode="train", model=SPECS[2], local=LOCAL, seed=1)
    first = run(tmp_path / "before", step, responses()).delta
    worker.preload()
    again = run(tmp_path / "after", step, responses()).delta
    assert first is not None
    assert again is not None
    assert (torch.get_num_threads(), first.tobytes()) == (1, again.tobytes())


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 12), inputs=st.integers(1, 20))
def test_the_gradient_of_one_layer_is_autograds(seed: int, rows: int, inputs: int) -> None:
    """Logistic regression's gradient, written out, is what autograd finds, up to float32's rounding."""
    generator = torch.Generator().manual_seed(seed)
    spec = LogisticRegression(inputs=inputs)
    batch = RowBatch(
        features=torch.randn(rows, inputs, generator=generator),
        labels=torch.randint(0, 2, (rows,), generator=generator).float(),
        rows=np.arange(rows),
    )
    local = LocalTraining(optimiser="sgd", learning_rate=0.5, batch_size=rows, steps=1)
    start = initial_weights(spec, seed=seed % 1000)
    fitting = Fitting(spec, start, local)
    fitting.fit([batch])
    network = build(spec, start)
    binary_cross_entropy_with_logits(predict(network, batch), batch.labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        wanted = parameter.detach() - 0.5 * parameter.grad
        np.testing.assert_allclose(fitting.weights()[name], wanted.numpy(), rtol=1e-5, atol=1e-6)
