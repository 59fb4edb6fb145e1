"""Metrics that add up: what a contributor puts beside its update, and what the sum over contributors says.

Every number of the evaluation is a function of sums (counts, loss, squared error, two score histograms), so it can
travel inside the securely summed vector and no contributor's own number is seen. AUC from two histograms of 50 bins is
within about 1e-4 of the exact one; macro AUC is a sum of exact local AUCs and a count of contributors that have one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

BINS: Final = 50
# Keeps the loss of a confident mistake finite: at most 16.2 nats.
_FLOOR: Final = 1e-7
_CUT: Final = 0.5

Sums: TypeAlias = dict[str, NDArray[np.float64]]


class MetricsError(ValueError):
    """Scores, labels or sums that do not have the form this module states."""

    code = "metrics_invalid"


@dataclass(frozen=True, kw_only=True)
class MetricSection:
    """A named run of the shared vector.

    Attributes:
        name: ``split.metric``, for example ``test.hist_pos``.
        length: number of values.
        resolution: step of the fixed-point code; a value is sent as the nearest multiple of it (1 for counts).
    """

    name: str
    length: int
    resolution: float


_FORMS: Final[dict[str, tuple[int, float]]] = {
    "count": (1, 1.0),
    "positives": (1, 1.0),
    "correct": (1, 1.0),
    "loss_sum": (1, 2.0**-8),
    "brier_sum": (1, 2.0**-8),
    "hist_pos": (BINS, 1.0),
    "hist_neg": (BINS, 1.0),
    "auc_sum": (1, 2.0**-16),
    "auc_count": (1, 1.0),
    "small_auc_sum": (1, 2.0**-16),
    "small_auc_count": (1, 1.0),
}


def metric_sections(splits: Sequence[str]) -> tuple[MetricSection, ...]:
    """Return the sections for the given splits, in vector order (109 values a split)."""
    return tuple(
        MetricSection(name=f"{split}.{name}", length=length, resolution=resolution)
        for split in splits
        for name, (length, resolution) in _FORMS.items()
    )


def local_metrics(scores: NDArray[Any], labels: NDArray[Any], *, small: bool = False) -> Sums:
    """Return one contributor's share of the sums for one split.

    Args:
        scores: predicted probabilities in [0, 1], shape [n]; n may be 0.
        labels: 0 or 1, shape [n].
        small: the plan counts this contributor among the small ones.

    Raises:
        MetricsError: shapes differ, a score is outside [0, 1] or a label is neither 0 nor 1.
    """
    score, truth = _checked(scores, labels)
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    clipped = np.clip(score, _FLOOR, 1 - _FLOOR)
    auc = exact_auc(score, truth)
    own, counted = (0.0, 0.0) if auc is None else (auc, 1.0)
    values: dict[str, Any] = {
        "count": score.size,
        "positives": np.count_nonzero(truth),
        "correct": np.count_nonzero((score > _CUT) == truth),
        "loss_sum": -np.log(np.where(truth, clipped, 1 - clipped)).sum(),
        "brier_sum": np.square(score - truth).sum(),
        "hist_pos": np.bincount(bins[truth], minlength=BINS),
        "hist_neg": np.bincount(bins[~truth], minlength=BINS),
        "auc_sum": own,
        "auc_count": counted,
        "small_auc_sum": own if small else 0.0,
        "small_auc_count": counted if small else 0.0,
    }
    return {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in values.items()}


def learner_metrics(
    scores: NDArray[Any], labels: NDArray[Any], learners: NDArray[np.int64], count: int, *, small: bool = False
) -> Sums:
    """Return what `local_metrics` gives for each learner alone: name -> float64 [count, length].

    Args:
        scores: predicted probabilities in [0, 1], shape [n].
        labels: 0 or 1, shape [n].
        learners: whose prediction each is, 0..count - 1, shape [n].
        count: number of learners; one without predictions has zeros.
        small: the plan counts these contributors among the small ones.

    Raises:
        MetricsError: as `local_metrics`.
    """
    score, truth = _checked(scores, labels)
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    clipped = np.clip(score, _FLOOR, 1 - _FLOOR)

    def add(values: NDArray[Any]) -> NDArray[np.float64]:
        sums = np.bincount(learners, weights=values.astype(np.float64), minlength=count)
        return sums.astype(np.float64).reshape(count, 1)

    def histogram(chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        places = learners[chosen] * BINS + bins[chosen]
        return np.bincount(places, minlength=count * BINS).reshape(count, BINS).astype(np.float64)

    areas, counted = _learner_areas(score, truth, learners, count)
    none = np.zeros((count, 1))
    return {
        "count": add(np.ones(score.size)),
        "positives": add(truth),
        "correct": add((score > _CUT) == truth),
        "loss_sum": add(-np.log(np.where(truth, clipped, 1 - clipped))),
        "brier_sum": add(np.square(score - truth)),
        "hist_pos": histogram(truth),
        "hist_neg": histogram(~truth),
        "auc_sum": areas,
        "auc_count": counted,
        "small_auc_sum": areas if small else none,
        "small_auc_count": counted if small else none,
    }


def _learner_areas(
    score: NDArray[np.float64], truth: NDArray[np.bool_], learners: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each learner's exact AUC (0 where there is none) and 1 where there is one, [count, 1]."""
    areas, counted = np.zeros((count, 1)), np.zeros((count, 1))
    positives = np.bincount(learners, weights=truth, minlength=count)
    sizes = np.bincount(learners, minlength=count)
    order = np.argsort(learners, kind="stable")
    ends = np.cumsum(sizes)
    for learner in np.flatnonzero((positives > 0) & (positives < sizes)):
        own = order[ends[learner] - sizes[learner] : ends[learner]]
        area = exact_auc(score[own], truth[own])
        if area is not None:
            areas[learner], counted[learner] = area, 1.0
    return areas, counted


def pack_metrics(metrics: Mapping[str, Mapping[str, NDArray[Any]]], splits: Sequence[str]) -> NDArray[np.float64]:
    """Lay ``{split: sums}`` out as one vector in the order of `metric_sections`; a split left out is all zero.

    Raises:
        MetricsError: an array is missing or has another shape.
    """
    parts: list[NDArray[np.float64]] = []
    for split in splits:
        sums = metrics.get(split)
        for name, (length, _) in _FORMS.items():
            array = np.zeros(length) if sums is None else np.asarray(sums.get(name, ()), dtype=np.float64)
            if array.shape != (length,):
                raise MetricsError(f"metric {split}.{name} does not have {length} values")
            parts.append(array)
    return np.concatenate(parts) if parts else np.zeros(0)


def unpack_metrics(vector: NDArray[Any], splits: Sequence[str]) -> dict[str, Sums]:
    """Cut a vector laid out by `pack_metrics` (one contributor's or the sum of many) into ``{split: sums}``.

    Raises:
        MetricsError: the vector has another length.
    """
    sections = metric_sections(splits)
    if vector.shape != (sum(section.length for section in sections),):
        raise MetricsError("the metric vector has another length than its sections")
    result: dict[str, Sums] = {split: {} for split in splits}
    start = 0
    for section in sections:
        split, name = section.name.rsplit(".", 1)
        result[split][name] = np.array(vector[start : start + section.length], dtype=np.float64)
        start += section.length
    return result


def summarise(sums: Mapping[str, NDArray[Any]]) -> dict[str, float | int | None]:
    """Return the readable metrics of one split from summed sections; None where nothing can be said.

    Keys: ``count positives accuracy loss brier ece auc macro_auc contributors small_macro_auc small_contributors``.
    ``ece`` is the expected calibration error over 50 equal bins, each bin's mean score taken as its middle (so within
    0.01); ``auc`` is pooled and counts ties within a bin as half.
    """
    count = round(float(sums["count"][0]))
    contributors, small = round(float(sums["auc_count"][0])), round(float(sums["small_auc_count"][0]))
    return {
        "count": count,
        "positives": round(float(sums["positives"][0])),
        "accuracy": _ratio(sums["correct"][0], count),
        "loss": _ratio(sums["loss_sum"][0], count),
        "brier": _ratio(sums["brier_sum"][0], count),
        "ece": calibration_error(sums["hist_pos"], sums["hist_neg"]),
        "auc": histogram_auc(sums["hist_pos"], sums["hist_neg"]),
        "macro_auc": _ratio(sums["auc_sum"][0], contributors),
        "contributors": contributors,
        "small_macro_auc": _ratio(sums["small_auc_sum"][0], small),
        "small_contributors": small,
    }


def local_card(scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, float | int | None]:
    """Return a provider's own card for one split (stays with the provider): as `summarise`, with the exact AUC."""
    summary = summarise(local_metrics(scores, labels))
    own = ("count", "positives", "accuracy", "loss", "brier", "ece")
    return {**{name: summary[name] for name in own}, "auc": exact_auc(scores, labels)}


def exact_auc(scores: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Return the rank AUC (Mann-Whitney U, ties count half), or None when one class is absent."""
    truth = np.asarray(labels).astype(bool)
    positives = int(np.count_nonzero(truth))
    negatives = truth.size - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(middle_rank[inverse][truth].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def histogram_auc(positives: NDArray[Any], negatives: NDArray[Any]) -> float | None:
    """Return the AUC of two score histograms [bins], or None when one class is absent."""
    total = float(positives.sum()) * float(negatives.sum())
    if total <= 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / total)


def calibration_error(positives: NDArray[Any], negatives: NDArray[Any]) -> float | None:
    """Return the expected calibration error of two score histograms [bins], or None without rows."""
    rows = positives + negatives
    total = float(rows.sum())
    if total <= 0:
        return None
    middles = (np.arange(rows.size) + 0.5) / rows.size
    return float(np.abs(positives - rows * middles).sum() / total)


def _checked(scores: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if score.ndim != 1 or score.shape != label.shape:
        raise MetricsError("scores and labels must be two lists of one length")
    if not ((score >= 0) & (score <= 1)).all():
        raise MetricsError("a score is not a probability")
    if not np.isin(label, (0, 1)).all():
        raise MetricsError("a label is neither 0 nor 1")
    return score, label.astype(bool)


def _ratio(total: float, count: int) -> float | None:
    return float(total) / count if count > 0 else None
