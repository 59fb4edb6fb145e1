"""What one contribution is made of: the sections of a round's shared vector, from the plan alone.

Every member derives the same layout from the plan, the kind of round and the number of contributors, so that no field
of a message can widen what is shared.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.metrics import MetricSection, metric_sections, unpack_metrics
from learning.models import parameter_count, parse_model
from learning.plans import TrainingPlan
from learning.rounds import RoundKind
from learning.secagg.layout import Section, VectorLayout, best_scale

FloatArray = NDArray[np.float64]


def round_splits(plan: TrainingPlan, kind: RoundKind) -> tuple[str, ...]:
    """Return the metric splits that a round's vector carries."""
    if kind is RoundKind.TRAIN:
        return ("valid", "test")
    extra = (("local",) if plan.evaluation.baseline else ()) + (("finetuned",) if plan.evaluation.finetune else ())
    return ("valid", "test", *extra)


def round_layout(plan: TrainingPlan, kind: RoundKind, n: int) -> VectorLayout:
    """Return the layout of a round with ``n`` contributors, at the finest scale that cannot wrap."""
    bits = plan.aggregation.bits
    sections: list[Section] = []
    if kind is RoundKind.TRAIN:
        size = parameter_count(parse_model(plan.model))
        sections.append(Section(name="delta", size=size, bound=plan.clip, scale_bits=best_scale(plan.clip, n, bits)))
        sections.append(Section(name="weight", size=1, bound=1.0, scale_bits=best_scale(1.0, n, bits)))
    share = ((1 << (bits - 1)) - 1) // n
    sections.extend(_metric(section, share) for section in metric_sections(round_splits(plan, kind)))
    return VectorLayout(sections=tuple(sections), k=bits)


def contribution(
    plan: TrainingPlan, kind: RoundKind, *, delta: FloatArray | None, train_rows: int, metrics: FloatArray
) -> dict[str, FloatArray]:
    """Return one contributor's values by section: the clipped update times its weight, the weight, the metrics.

    Args:
        plan: the plan.
        kind: the kind of round.
        delta: local minus global weights, flat, shape [parameters]; None in an evaluation round.
        train_rows: rows trained on; the weight is ``min(train_rows, weight_cap) / weight_cap``.
        metrics: packed by :func:`learning.metrics.pack_metrics` for this round's splits.
    """
    values = _cut(metrics, round_splits(plan, kind))
    if kind is RoundKind.TRAIN:
        if delta is None:
            raise ValueError("a training round needs an update")
        weight = min(train_rows, plan.weight_cap) / plan.weight_cap
        values["delta"] = clip_norm(delta, plan.clip) * weight
        values["weight"] = np.array([weight])
    return values


def clip_norm(delta: FloatArray, bound: float) -> FloatArray:
    """Return ``delta`` scaled down to an L2 norm of at most ``bound``."""
    norm = float(np.linalg.norm(delta))
    return delta if norm <= bound else delta * (bound / norm)


def mean_update(sums: Mapping[str, FloatArray]) -> FloatArray:
    """Return the weighted mean update from a decoded sum; zero where nobody had a row to train on."""
    total = float(sums["weight"][0])
    return sums["delta"] / total if total > 0 else np.zeros_like(sums["delta"])


def metric_sums(plan: TrainingPlan, kind: RoundKind, sums: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Return the decoded metric sums by split."""
    splits = round_splits(plan, kind)
    packed = np.concatenate([sums[section.name] for section in metric_sections(splits)])
    return unpack_metrics(packed, splits)


def _metric(section: MetricSection, share: int) -> Section:
    bits = round(-math.log2(section.resolution))
    return Section(
        name=section.name,
        size=section.length,
        bound=math.floor(share / 2**bits) - 1,
        scale_bits=bits or None,
    )


def _cut(packed: FloatArray, splits: tuple[str, ...]) -> dict[str, FloatArray]:
    values: dict[str, FloatArray] = {}
    start = 0
    for section in metric_sections(splits):
        values[section.name] = np.asarray(packed[start : start + section.length], dtype=np.float64)
        start += section.length
    return values
