"""Snapshots as minibatches: rows for tables, grids of learners over time for answers.

A snapshot comes from outside the sandbox, but a wrong one must fail with a sentence instead of inside torch, so shapes,
ranges and offsets are checked once on reading.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learning.models import Dkt, ModelSpec
from learning.splits import TEST, TRAIN

Ints: TypeAlias = NDArray[np.int64]

_ROWS_AT_ONCE = 4_096
_LEARNERS_AT_ONCE = 64
# An LSTM step costs about as much per learner at 8 as at 32 side by side, and narrow grids pad less.
_GRID_WIDTH = 8
_TABLE, _ROW, _SINGLE = 2, 1, 1


class SnapshotError(ValueError):
    """The snapshot's arrays do not have the stated form, or do not fit the model."""

    code = "snapshot_invalid"


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """Rows of a table: features float32 [rows, d], labels float32 [rows], their indexes in the snapshot [rows]."""

    features: Tensor
    labels: Tensor
    rows: Ints


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Learners of similar length side by side: time x learners, padded behind each one's last answer.

    Attributes:
        times: height: the longest learner's answers.
        learners: width.
        slots: place ``time * learners + learner`` of every event [events].
        sources: slot of the event before each predicted answer [answers].
    """

    times: int
    learners: int
    slots: Tensor
    sources: Tensor


@dataclass(frozen=True, kw_only=True)
class AnswerBatch:
    """Learners' answers, one learner after another, in grids that follow each other.

    Attributes:
        grids: where events and predicted answers belong.
        pairs: embedding rows ``skill + skills * correct`` of all events, ragged; ``pair_offsets`` [events + 1].
        targets: skills of the predicted answers, ragged; ``target_offsets`` [answers + 1].
        labels: correctness of the predicted answers, float32 [answers].
        rows: event index in the snapshot of each predicted answer [answers].
    """

    grids: tuple[Grid, ...]
    pairs: Tensor
    pair_offsets: Tensor
    targets: Tensor
    target_offsets: Tensor
    labels: Tensor
    rows: Ints


Batch: TypeAlias = RowBatch | AnswerBatch


class Examples(Protocol):
    """A snapshot that can be walked in minibatches. ``learners`` numbers whose prediction each row or event is [n]."""

    @property
    def learners(self) -> Ints:
        """Return whose row or event each is, numbered from 0."""
        ...

    def size(self, split: int) -> int:
        """Return how many predictions one pass over the split makes."""
        ...

    def shuffled(self, split: int, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
        """Walk the split once in the order that (seed, epoch) fixes."""
        ...

    def in_order(self, split: int | None) -> Iterator[Batch]:
        """Walk the split (or everything) once, for prediction."""
        ...


class Outcomes:
    """A row per enrolment: ``X``, ``y`` and ``split``."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], inputs: int) -> None:
        """Check and hold the arrays.

        Raises:
            SnapshotError: a column is missing or has another type, width or range.
        """
        features = _array(arrays, "X", np.float32)
        count = len(features)
        if features.ndim != _TABLE or features.shape[1] != inputs:
            raise SnapshotError(f"the model takes {inputs} features, the snapshot has shape {list(features.shape)}")
        if not np.isfinite(features).all():
            raise SnapshotError("a feature is not finite")
        labels = _array(arrays, "y", np.uint8) if "y" in arrays else np.zeros(count, dtype=np.uint8)
        self._split = _array(arrays, "split", np.uint8)
        if labels.shape != (count,) or self._split.shape != (count,):
            raise SnapshotError("X, y and split must have one entry a row")
        if (labels > 1).any() or (self._split > TEST).any():
            raise SnapshotError("y holds 0 and 1, split 0, 1 and 2")
        self._features = torch.from_numpy(features)
        self._labels = torch.from_numpy(labels.astype(np.float32))
        self._learners = arrays.get("learner")

    @property
    def learners(self) -> Ints:
        """Return whose row each is.

        Raises:
            SnapshotError: the snapshot does not say.
        """
        if self._learners is None or self._learners.dtype != np.int32 or self._learners.shape != self._split.shape:
            raise SnapshotError("the snapshot does not say whose each row is")
        return np.asarray(self._learners, dtype=np.int64)

    def of(self, rows: Ints, split: int) -> Ints:
        """Return which of some rows belong to a split."""
        return np.asarray(rows[self._split[rows] == split])

    def take(self, rows: Ints) -> tuple[Tensor, Tensor]:
        """Return features [..., d] and labels [...] of rows [...]."""
        indexes = torch.from_numpy(rows)
        return self._features[indexes], self._labels[indexes]

    def size(self, split: int) -> int:
        """Return the rows of a split."""
        return int(np.count_nonzero(self._split == split))

    def shuffled(self, split: int, batch_size: int, seed: int, epoch: int) -> Iterator[RowBatch]:
        """Walk the split once in the order that (seed, epoch) fixes."""
        rows = np.flatnonzero(self._split == split)
        yield from self._walk(rows[order(len(rows), seed, epoch)], batch_size)

    def in_order(self, split: int | None) -> Iterator[RowBatch]:
        """Walk the split (or all rows) in the snapshot's order."""
        rows = np.arange(len(self._split)) if split is None else np.flatnonzero(self._split == split)
        yield from self._walk(rows, _ROWS_AT_ONCE)

    def _walk(self, rows: Ints, batch_size: int) -> Iterator[RowBatch]:
        indexes = torch.from_numpy(rows)
        features, labels = self._features[indexes], self._labels[indexes]
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            yield RowBatch(features=features[part], labels=labels[part], rows=rows[part])


class Responses:
    """Answers of learners over time, each event with one or more skills."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], skills: int) -> None:
        """Check and hold the arrays.

        Raises:
            SnapshotError: an array is missing or has another type, or offsets or skills are out of range.
        """
        self._offsets, self._skill_offsets = (_array(arrays, name, np.int64) for name in ("offsets", "skill_offsets"))
        self._skills = _array(arrays, "skills", np.int32).astype(np.int64)
        self._correct, self._split = (_array(arrays, name, np.uint8) for name in ("correct", "split"))
        _check_offsets(self._offsets, len(self._correct), least=0)
        _check_offsets(self._skill_offsets, len(self._skills), least=1)
        if len(self._skill_offsets) != len(self._correct) + 1 or len(self._split) != len(self._offsets) - 1:
            raise SnapshotError("skill_offsets counts events and split counts learners; they do not")
        if self._skills.size and not 0 <= self._skills.min() <= self._skills.max() < skills:
            raise SnapshotError(f"a skill is outside the model's {skills}")
        if (self._correct > 1).any() or (self._split > TEST).any():
            raise SnapshotError("correct holds 0 and 1, split 0, 1 and 2")
        self._count = skills
        self._lengths = np.diff(self._offsets)

    @property
    def learners(self) -> Ints:
        """Return whose each event is."""
        return np.repeat(np.arange(len(self._lengths)), self._lengths)

    def trainable(self) -> tuple[Ints, Ints]:
        """Return the learners who train, longest first, and the length of their sequences."""
        learners = self._predictable(TRAIN)
        learners = learners[np.argsort(-self._lengths[learners], kind="stable")]
        return learners, self._lengths[learners]

    def side_by_side(self, learners: Ints) -> AnswerBatch:
        """Return the answers of learners, longest first, each learner's skills shifted to tables of its own.

        Learner i of the batch looks up row ``i * 2 * skills + pair`` of the stacked embeddings, and row
        ``i * skills + skill`` of the stacked outputs.
        """
        batch = self._lay_out(learners, width=len(learners))
        owners = np.repeat(np.arange(len(learners)), self._lengths[learners])
        first = np.cumsum(self._lengths[learners]) - self._lengths[learners]
        predicted = np.delete(owners, first)
        return replace(
            batch,
            pairs=batch.pairs + _shift(owners, batch.pair_offsets, 2 * self._count),
            targets=batch.targets + _shift(predicted, batch.target_offsets, self._count),
        )

    def size(self, split: int) -> int:
        """Return the predicted answers of a split: all but each learner's first."""
        return int(np.maximum(self._lengths[self._split == split] - 1, 0).sum())

    def shuffled(self, split: int, batch_size: int, seed: int, epoch: int) -> Iterator[AnswerBatch]:
        """Walk the split's learners once in the order that (seed, epoch) fixes."""
        learners = self._predictable(split)
        yield from self._walk(learners[order(len(learners), seed, epoch)], batch_size)

    def in_order(self, split: int | None) -> Iterator[AnswerBatch]:
        """Walk the split's (or all) learners by length, which pads least; ``rows`` says where answers belong."""
        learners = self._predictable(split)
        by_length = learners[np.argsort(-self._lengths[learners], kind="stable")]
        yield from self._walk(by_length, _LEARNERS_AT_ONCE)

    def _predictable(self, split: int | None) -> Ints:
        wanted = self._lengths > _SINGLE
        return np.flatnonzero(wanted if split is None else wanted & (self._split == split))

    def _walk(self, learners: Ints, batch_size: int) -> Iterator[AnswerBatch]:
        for start in range(0, len(learners), batch_size):
            yield self._lay_out(learners[start : start + batch_size])

    def _lay_out(self, learners: Ints, width: int = _GRID_WIDTH) -> AnswerBatch:
        learners = learners[np.argsort(-self._lengths[learners], kind="stable")]
        lengths = self._lengths[learners]
        times = _ranges(lengths)
        events = np.repeat(self._offsets[learners], lengths) + times
        predicted = events[times > 0]
        pairs, pair_offsets = self._skills_of(events)
        pairs = pairs + self._count * np.repeat(self._correct[events].astype(np.int64), np.diff(pair_offsets))
        targets, target_offsets = self._skills_of(predicted)
        return AnswerBatch(
            grids=tuple(_grid(lengths[start : start + width]) for start in range(0, len(lengths), width)),
            pairs=torch.from_numpy(pairs),
            pair_offsets=torch.from_numpy(pair_offsets),
            targets=torch.from_numpy(targets),
            target_offsets=torch.from_numpy(target_offsets),
            labels=torch.from_numpy(self._correct[predicted].astype(np.float32)),
            rows=predicted,
        )

    def _skills_of(self, events: Ints) -> tuple[Ints, Ints]:
        counts = np.diff(self._skill_offsets)[events]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        return self._skills[np.repeat(self._skill_offsets[events], counts) + _ranges(counts)], offsets


def read_examples(spec: ModelSpec, arrays: Mapping[str, NDArray[Any]]) -> Examples:
    """Return the snapshot in the shape the model takes.

    Raises:
        SnapshotError: the arrays do not have that shape.
    """
    if isinstance(spec, Dkt):
        return Responses(arrays, spec.skills)
    return Outcomes(arrays, spec.inputs)


def training_batches(examples: Examples, batch_size: int, seed: int, steps: int) -> Iterator[Batch]:
    """Walk the training split for ``steps`` minibatches, starting the next epoch where one ends."""
    if not examples.size(TRAIN):
        return
    done = epoch = 0
    while True:
        for batch in examples.shuffled(TRAIN, batch_size, seed, epoch):
            if done == steps:
                return
            yield batch
            done += 1
        epoch += 1


def order(count: int, seed: int, epoch: int) -> Ints:
    """Return the order of ``count`` rows in an epoch: a function of its arguments alone."""
    digest = hashlib.sha256(f"orchard order {seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return np.asarray(torch.randperm(count, generator=generator).numpy())


def _shift(owners: Ints, offsets: Tensor, width: int) -> Tensor:
    """Return, for the ragged entries of rows with these owners, ``owner * width``."""
    return torch.from_numpy(np.repeat(owners * width, np.diff(offsets.numpy())))


def _ranges(lengths: Ints) -> Ints:
    """Return 0..l-1 for each length l, one after another."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _grid(lengths: Ints) -> Grid:
    times, owners = _ranges(lengths), np.repeat(np.arange(len(lengths)), lengths)
    slots = times * len(lengths) + owners
    return Grid(
        times=int(lengths.max()),
        learners=len(lengths),
        slots=torch.from_numpy(slots),
        # An event's predecessor is the entry before it.
        sources=torch.from_numpy(slots[np.flatnonzero(times > 0) - 1]),
    )


def _array(arrays: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic]) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None:
        raise SnapshotError(f"the snapshot lacks {name!r}")
    if array.dtype != dtype or (name != "X" and array.ndim != _ROW):
        raise SnapshotError(f"{name!r} of the snapshot has another type or shape")
    return array


def _check_offsets(offsets: Ints, total: int, *, least: int) -> None:
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < least).any():
        raise SnapshotError("offsets must rise from 0 to the number of entries")
