"""Rows as the arrays that a model trains on; the names and types are those of ``learning/steps.py``."""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connector.sources.files import as_text
from connector.sources.source import SourceError, Table
from learning.splits import TEST, TRAIN, VALID, fold_split, hashed_split, stratified_split
from learning.views import FeatureSpec, FeatureView, LabelSpec, ResponseSpec, fill_parameters

Arrays: TypeAlias = dict[str, NDArray[Any]]
_TRUE, _FALSE = ("1", "true", "yes", "y", "t"), ("0", "false", "no", "n", "f")


def encode(view: FeatureView, table: Table, parameters: dict[str, str]) -> Arrays:
    """Return the arrays of a view's rows.

    Raises:
        SourceError: a value is missing, or not what the view says.
    """
    if view.responses is not None:
        return _responses(view, view.responses, table, parameters)
    return _outcomes(view, table, parameters)


def numbered_learners(view: FeatureView, table: Table) -> list[str]:
    """Return the subjects of a view's rows in the order that :func:`encode` numbers them."""
    found = table.data.column(view.subject).combine_chunks().dictionary_encode().dictionary
    if view.responses is not None:
        found = found.take(pc.sort_indices(found))
    return [str(subject) for subject in found.to_pylist()]


def _outcomes(view: FeatureView, table: Table, parameters: dict[str, str]) -> Arrays:
    data = table.data
    if view.label is None:
        raise SourceError("view-mismatch", "a view of outcomes needs a label: fix the view file")
    labels = _labels(view.label, data.column(view.label.name))
    subjects = data.column(view.subject).to_pylist()
    if view.split.by == "stratified":
        split = stratified_split(labels, train_fraction=view.split.train, seed=view.split.seed)
    else:
        split = _split(view, table, data, subjects, parameters)
    blocks = [_feature(feature, data.column(feature.column), split == TRAIN) for feature in view.features]
    features = np.concatenate(blocks, axis=1).astype(np.float32)
    numbers = data.column(view.subject).combine_chunks().dictionary_encode().indices.to_numpy()
    return {"X": np.ascontiguousarray(features), "y": labels, "split": split, "learner": numbers.astype(np.int32)}


def _labels(spec: LabelSpec, column: Any) -> NDArray[np.uint8]:
    values = _truth(column, spec.name)
    if np.isnan(values).any():
        raise SourceError("source-malformed", f"label {spec.name}: a row has none: leave such rows out in the query")
    return values.astype(np.uint8)


def _feature(spec: FeatureSpec, column: Any, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    if spec.type == "category":
        values = _category(spec, column)
    else:
        values = (_truth(column, spec.column) if spec.type == "boolean" else _numbers(column, spec.column))[:, None]
        missing = int(np.isnan(values).sum())
        if missing and spec.fill is None:
            raise SourceError(
                "source-malformed",
                f"column {spec.column} is empty in {missing} rows: give it a fill in the view, or drop them in the query",
            )
        values = np.where(np.isnan(values), spec.fill or 0.0, values)
    return _scaled(spec, values, train)


def _scaled(spec: FeatureSpec, values: NDArray[np.float64], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    own = values[train]
    if spec.scale == "none" or not len(own):
        return values
    if spec.scale == "min-max":
        start, width = own.min(axis=0), own.max(axis=0) - own.min(axis=0)
    else:
        start = own.mean(axis=0)
        width = own.std(axis=0, ddof=1) if len(own) > 1 else np.zeros_like(start)
    return np.asarray((values - start) / np.where(width > 0, width, 1.0))


def _category(spec: FeatureSpec, column: Any) -> NDArray[np.float64]:
    indexes = pc.index_in(as_text(column), value_set=pa.array(list(spec.values), pa.string()))
    places = indexes.fill_null(len(spec.values)).to_numpy()
    unlisted = int((places == len(spec.values)).sum())
    if unlisted and not spec.other:
        raise SourceError(
            "view-mismatch",
            f"column {spec.column} holds values that the view does not list in {unlisted} rows: "
            "list them, or set other = true",
        )
    table = np.eye(len(spec.values) + 1)[places]
    return np.asarray(table[:, 1 if spec.drop_first else 0 : None if spec.other else -1])


def _numbers(column: Any, name: str) -> NDArray[np.float64]:
    try:
        numbers = pc.cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise SourceError(
            "view-mismatch", f"column {name} is not a number: fix its type in the view, or the export"
        ) from None
    values = np.array(numbers.fill_null(float("nan")).to_numpy(), dtype=np.float64)
    if np.isinf(values).any():
        raise SourceError("source-malformed", f"column {name} holds an infinite number: fix the export")
    return values


def _truth(column: Any, name: str) -> NDArray[np.float64]:
    """Return 0, 1 or NaN for each value of a column of truth values, 0 and 1, or yes and no."""
    texts = pc.utf8_lower(as_text(column))
    true = pc.is_in(texts, value_set=pa.array(_TRUE)).to_numpy(zero_copy_only=False)
    false = pc.is_in(texts, value_set=pa.array(_FALSE)).to_numpy(zero_copy_only=False)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    if not (true | false | missing).all():
        raise SourceError("view-mismatch", f"column {name} is not yes or no: fix the view file or the export")
    return np.where(missing, np.nan, true.astype(np.float64))


def _responses(view: FeatureView, spec: ResponseSpec, table: Table, parameters: dict[str, str]) -> Arrays:
    order = pc.sort_indices(table.data, sort_keys=[(view.subject, "ascending"), (spec.order, "ascending")])
    data = table.data.take(order)
    for name in (spec.correct, spec.skills, spec.order):
        if data.column(name).null_count:
            raise SourceError("source-malformed", f"column {name} is empty in {data.column(name).null_count} answers")
    subjects = data.column(view.subject).combine_chunks().dictionary_encode()
    codes = subjects.indices.to_numpy()
    learners = subjects.dictionary.to_pylist()
    offsets = np.concatenate(([0], np.cumsum(np.bincount(codes, minlength=len(learners))))).astype(np.int64)
    skills, skill_offsets = _skills(spec, data.column(spec.skills))
    return {
        "offsets": offsets,
        "skills": skills,
        "skill_offsets": skill_offsets,
        "correct": _truth(data.column(spec.correct), spec.correct).astype(np.uint8),
        "split": _learner_split(view, table, data, learners, offsets, parameters),
    }


def _learner_split(
    view: FeatureView,
    table: Table,
    data: Any,
    learners: list[str],
    offsets: NDArray[np.int64],
    parameters: dict[str, str],
) -> NDArray[np.uint8]:
    if view.split.column is None:
        return _split(view, table, data, learners, parameters)
    rows = _split(view, table, data, learners, parameters)
    first = rows[offsets[:-1]]
    if not np.array_equal(np.repeat(first, np.diff(offsets)), rows):
        raise SourceError("source-malformed", f"column {view.split.column} gives one learner several folds")
    return first


def _skills(spec: ResponseSpec, column: Any) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the flat skill ids and where each answer's begin."""
    parts = pc.split_pattern(as_text(column), spec.separator).combine_chunks()
    counts = pc.list_value_length(parts).to_numpy()
    flat = pc.utf8_trim_whitespace(pc.list_flatten(parts))
    if isinstance(spec.vocabulary, int):
        try:
            ids = pc.cast(flat, pa.int32()).to_numpy()
        except pa.ArrowInvalid:
            raise SourceError(
                "view-mismatch", f"column {spec.skills}: a skill is not a number: list the names as vocabulary"
            ) from None
        outside = int(((ids < 0) | (ids >= spec.vocabulary)).sum())
    else:
        found = pc.index_in(flat, value_set=pa.array(list(spec.vocabulary), pa.string()))
        outside, ids = found.null_count, found.fill_null(0).to_numpy()
    if outside:
        raise SourceError("view-mismatch", f"column {spec.skills}: {outside} skills are not in the view's vocabulary")
    return ids.astype(np.int32), np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _split(
    view: FeatureView, table: Table, data: Any, subjects: list[str], parameters: dict[str, str]
) -> NDArray[np.uint8]:
    spec = view.split
    salt = fill_parameters(spec.salt, parameters)
    if spec.by == "hash":
        return hashed_split(subjects, train=spec.train, valid=spec.valid, salt=f"{salt}/{spec.seed}")
    test = _test_fold(view, parameters)
    if spec.column is None:
        everybody = sorted(table.population)
        dealt = dict(
            zip(everybody, fold_split(everybody, folds=spec.folds, test_fold=test - 1, salt=salt), strict=True)
        )
        return np.array([dealt[subject] for subject in subjects], dtype=np.uint8)
    folds = _numbers(data.column(spec.column), spec.column)
    if not np.isin(folds, np.arange(1, spec.folds + 1)).all():
        raise SourceError("view-mismatch", f"column {spec.column} must hold folds 1 to {spec.folds}")
    places = np.full(len(folds), TRAIN, dtype=np.uint8)
    places[folds == test % spec.folds + 1] = VALID
    places[folds == test] = TEST
    return places


def _test_fold(view: FeatureView, parameters: dict[str, str]) -> int:
    text = fill_parameters(view.split.test, parameters)
    if not text.isdecimal() or not 1 <= int(text) <= view.split.folds:
        raise SourceError("view-mismatch", f"the test fold must be 1 to {view.split.folds}: check the parameters")
    return int(text)
