"""A snapshot: the rows of the consenting subjects as arrays in one file, the only data that a training step sees."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from connector.sources.encoding import encode, numbered_learners
from connector.sources.opened import OpenedSource
from connector.sources.source import SnapshotFacts, SourceError, SubjectRef
from learning.splits import TRAIN
from policies.canonical import sha256_hex


def build_snapshot(
    source: OpenedSource, allowed: frozenset[str] | None, subject_ref: SubjectRef, out_path: Path
) -> SnapshotFacts:
    """Read the allowed subjects' rows and write them as ``data.safetensors`` arrays to ``out_path`` (mode 0600).

    The file holds no subject id: outcomes are ``X``, ``y``, ``split``, ``learner`` (a number); responses ``offsets``, ``skills``,
    ``skill_offsets``, ``correct``, ``split`` (see ``learning/steps.py``). It replaces an older file at once.

    Raises:
        SourceError: the source is gone, malformed, does not fit the view, or holds no row of an allowed subject.
    """
    view = source.view
    table = source.read(allowed, subject_ref)
    if table.data.num_rows == 0:
        raise SourceError("source-empty", f"view {view.name} finds no row of a learner who may be read")
    arrays = encode(view, table, source.parameters)
    learners = numbered_learners(view, table)
    data = save(arrays, metadata={"shape": view.shape})
    partial = out_path.with_name(out_path.name + ".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - a mode from the start
        file.write(data)
    partial.replace(out_path)
    return SnapshotFacts(
        rows=table.data.num_rows,
        subjects=len(learners),
        train_rows=count_train_rows(arrays),
        digest=sha256_hex(data),
        learners=tuple(subject_ref(learner) for learner in learners),
        rows_read=table.rows_read,
    )


def count_train_rows(arrays: dict[str, np.ndarray]) -> int:
    """Return how many rows (outcomes) or answers (responses) of encoded arrays train."""
    train = arrays["split"] == TRAIN
    if "offsets" in arrays:
        return int(np.diff(arrays["offsets"])[train].sum())
    return int(train.sum())
