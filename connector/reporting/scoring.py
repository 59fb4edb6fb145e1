"""A trained model applied to the caller's own rows: read through a view, scored in the sandbox, named again outside it."""

import csv
import dataclasses
import tempfile
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from safetensors.numpy import save

from connector.reporting.model_file import TrainedModel
from connector.sandbox.results import SandboxError
from connector.sandbox.sandbox import Sandbox
from connector.sources.encoding import encode
from connector.sources.opened import OpenedSource
from connector.sources.source import SourceError
from learning.models import Dkt, ModelSpec
from learning.steps import (
    DATA_FILE,
    STEP_FILE,
    WEIGHTS_FILE,
    LocalTraining,
    Step,
    StepResultError,
    parse_result,
    step_document,
)
from learning.views import FeatureView, output_columns, output_digest, skill_count, view_digest
from policies.canonical import canonical_json

_WORKER = "learning.training.worker"
# A prediction trains nothing; the step document still names how it would.
_NO_TRAINING = LocalTraining(optimiser="sgd", learning_rate=0.1, batch_size=1, steps=1)


class ViewMismatchError(Exception):
    """The view does not yield what the model was trained on; the caller chose the wrong view or model."""

    code = "view-does-not-fit"


class PredictionError(Exception):
    """The step that scores was stopped or gave no usable result; ``code`` is the sandbox's or the step's own."""

    def __init__(self, code: str, message: str) -> None:
        """Make the error."""
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """A prediction.

    Attributes:
        subject: the source's own id of the subject.
        number: the row's number in the view, or the answer's number in the subject's order, from 1.
        score: probability of label 1, or of a correct answer.
    """

    subject: str
    number: int
    score: float


def check_view(model: TrainedModel, view: FeatureView) -> None:
    """Refuse a view that was not what the model's inputs were made by, or the equal of it.

    Raises:
        ViewMismatchError: names the first difference.
    """
    if view.shape != model.shape:
        raise ViewMismatchError(f"the model takes {model.shape}, the view {view.name} yields {view.shape}")
    width, wanted = _width(view), _inputs(model.spec)
    if width != wanted:
        what = "skills" if view.shape == "responses" else "columns"
        raise ViewMismatchError(f"the model takes {wanted} {what}, the view {view.name} yields {width}")
    # A plan names the output; one made for a single view may name the view itself.
    if not {output_digest(view), view_digest(view)} & {model.features, model.view_output}:
        raise ViewMismatchError(
            f"the view {view.name} yields other columns ({output_digest(view)[:12]}) "
            f"than the model was trained on ({model.features[:12]}): use the view of the model's providers"
        )


def score_rows(
    model: TrainedModel, source: OpenedSource, sandbox: Sandbox, *, seconds: float = 300.0, memory_mb: int = 2048
) -> list[Score]:
    """Return a score for each row (outcomes), or for each answer but a subject's first (responses), in view order.

    All rows of the source are read: they are the caller's own. Scaled columns are scaled by this source's own
    training rows, as in training; a handful of rows is therefore no good source for a scaled view.

    Args:
        model: the model; its view has been checked with `check_view`.
        source: the caller's rows.
        sandbox: with ``learning.training.worker`` preloaded (`prediction_sandbox`).
        seconds: limit of the step.
        memory_mb: limit of the step, in MiB.

    Raises:
        SourceError: the rows cannot be read or do not fit the view.
        PredictionError: the sandbox stopped the step, cannot run here, or its output is not what the step owes.
    """
    table = source.read(None, lambda subject: subject)
    if table.data.num_rows == 0:
        raise SourceError("source-empty", f"view {source.view.name} finds no row to score: check folder and parameters")
    arrays = encode(source.view, table, source.parameters)
    step = Step(mode="predict", model=model.spec, local=_NO_TRAINING, seed=0, splits=())
    with tempfile.TemporaryDirectory(prefix="orchard-predict-") as name:
        inputs, outputs = Path(name, "in"), Path(name, "out")
        inputs.mkdir()
        outputs.mkdir()
        (inputs / STEP_FILE).write_bytes(canonical_json(step_document(step)))
        (inputs / WEIGHTS_FILE).write_bytes(model.weights)
        (inputs / DATA_FILE).write_bytes(save(arrays))
        try:
            done = sandbox.run(inputs, outputs, seconds=seconds, memory_mb=memory_mb)
            result = parse_result(step, done.output.read_bytes())
        except SandboxError as error:
            raise PredictionError(error.code, f"nothing was scored: the sandbox says {error}") from error
        except StepResultError as error:
            raise PredictionError(error.code, f"nothing was scored: {error}") from error
    if result.scores is None or result.rows is None:
        raise PredictionError(StepResultError.code, "nothing was scored: the step gave no scores")
    pairs = zip(result.rows.tolist(), result.scores.tolist(), strict=True)
    subjects = table.data.column(source.view.subject).to_pylist()
    return list(_named(pairs, subjects, arrays))


def prediction_sandbox(folder: Path) -> Sandbox:
    """Return a sandbox for `score_rows` whose socket lies in ``folder`` (one that only this user can enter)."""
    return Sandbox(socket_path=folder / "predict.sock", preload=_WORKER)


def write_scores(scores: Iterable[Score], shape: str, file: TextIO) -> None:
    """Write scores as CSV with a header: row or answer number, subject, score with six decimals."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("answer" if shape == "responses" else "row", "subject", "score"))
    writer.writerows((score.number, score.subject, f"{score.score:.6f}") for score in scores)


def _named(pairs: Iterable[tuple[int, float]], subjects: list[str], arrays: dict[str, Any]) -> Iterable[Score]:
    if "offsets" not in arrays:
        for row, score in pairs:
            yield Score(subject=subjects[row], number=row + 1, score=score)
        return
    # The snapshot holds the subjects in the order of their ids.
    learners, offsets = sorted(set(subjects)), arrays["offsets"].tolist()
    for event, score in pairs:
        learner = bisect_right(offsets, event) - 1
        yield Score(subject=learners[learner], number=event - offsets[learner] + 1, score=score)


def _width(view: FeatureView) -> int:
    return skill_count(view) if view.shape == "responses" else len(output_columns(view))


def _inputs(spec: ModelSpec) -> int:
    return spec.skills if isinstance(spec, Dkt) else spec.inputs
