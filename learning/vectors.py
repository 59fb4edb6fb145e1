"""What one contribution is made of: the sections of a round's shared vector, from the plan alone.

Every member derives the same layout from the plan and the number of contributors, so that no field of a message can
widen what is shared.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from learning.metrics import MetricSection, Sums, metric_sections, pack_metrics, unpack_metrics
from learning.models import parameter_count, parse_model
from learning.plans import TrainingPlan
from learning.secagg.layout import Section, VectorLayout, best_scale

FloatArray = NDArray[np.float64]
# A section's largest code (learning.secagg.layout): beyond it a float64 no longer holds every whole number.
_LARGEST_CODE = 1 << 52
# The sum of one contribution is that contribution.
_FEWEST = 2
# What one contribution to a sum of real numbers may need: an AUC, or the loss of a few hundred rows at the least.
_LARGEST_SUM = {"auc_sum": 1, "small_auc_sum": 1, "loss_sum": 4095, "brier_sum": 4095}


def splits(plan: TrainingPlan) -> tuple[str, ...]:
    """Return the metric splits that the vector carries; those that a round does not measure are zero in it."""
    local = ("local",) if plan.evaluation.baseline else ()
    return ("valid", "test", *local, *(("finetuned",) if plan.evaluation.finetune else ()))


def most_contributors(plan: TrainingPlan, members: int) -> int:
    """Return how many contributions the ring must have room for: the members, or the plan's bound on learners."""
    return members if plan.granularity == "provider" else plan.max_learners


def leaf_floor(plan: TrainingPlan) -> int:
    """Return the fewest contributions that any group sums: the plan's own floor in a star, a leaf group's in a tree.

    No leaf's sum is ever opened; still nobody should be alone in one, and learners are never fewer than a cohort.
    """
    if plan.aggregation.mode != "tree":
        return plan.min_contributors
    return _FEWEST if plan.granularity == "provider" else max(_FEWEST, plan.cohort_floor)


def layout(plan: TrainingPlan, members: int) -> VectorLayout:
    """Return the layout of every round of a job with so many members, at the finest scale that cannot wrap."""
    n = most_contributors(plan, members)
    bits = plan.aggregation.bits
    size = parameter_count(parse_model(plan.model))
    share = min(((1 << (bits - 1)) - 1) // n, _LARGEST_CODE)
    sections = [
        Section(name="delta", size=size, bound=plan.clip, scale_bits=best_scale(plan.clip, n, bits)),
        Section(name="weight", size=1, bound=1.0, scale_bits=best_scale(1.0, n, bits)),
        *(_metric(section, share) for section in metric_sections(splits(plan))),
    ]
    return VectorLayout(sections=tuple(sections), k=bits)


def contribution(
    plan: TrainingPlan, *, delta: FloatArray | None, train_rows: int, metrics: Mapping[str, Mapping[str, NDArray[Any]]]
) -> dict[str, FloatArray]:
    """Return one contributor's values by section: the clipped update times its weight, the weight, the metrics.

    Args:
        plan: the plan.
        delta: local minus global weights, flat, shape [parameters]; None in an evaluation round.
        train_rows: rows trained on; the weight is ``min(train_rows, weight_cap) / weight_cap``.
        metrics: sums by split.
    """
    values = _cut(pack_metrics(metrics, splits(plan)), splits(plan))
    if delta is None:
        return values | {"delta": np.zeros(parameter_count(parse_model(plan.model))), "weight": np.zeros(1)}
    weight = min(train_rows, plan.weight_cap) / plan.weight_cap
    return values | {"delta": clip_norm(delta, plan.clip) * weight, "weight": np.array([weight])}


def clip_norm(delta: FloatArray, bound: float) -> FloatArray:
    """Return ``delta`` scaled down to an L2 norm of at most ``bound``."""
    norm = float(np.linalg.norm(delta))
    return delta if norm <= bound else delta * (bound / norm)


def mean_update(sums: Mapping[str, FloatArray]) -> FloatArray:
    """Return the weighted mean update from a decoded sum; zero where nobody trained."""
    total = float(sums["weight"][0])
    return sums["delta"] / total if total > 0 else np.zeros_like(sums["delta"])


def metric_sums(plan: TrainingPlan, sums: Mapping[str, FloatArray]) -> dict[str, Sums]:
    """Return the decoded metric sums by split."""
    names = splits(plan)
    packed = np.concatenate([sums[section.name] for section in metric_sections(names)])
    return unpack_metrics(packed, names)


def _metric(section: MetricSection, share: int) -> Section:
    bits = round(-math.log2(section.resolution))
    if bits:
        # A sum of very many is coarser, before one of them loses what it has to say; rounding is unbiased.
        bits = min(bits, math.floor(math.log2(share / (_LARGEST_SUM[section.name.rpartition(".")[2]] + 1))))
    return Section(
        name=section.name,
        size=section.length,
        bound=math.floor(share / 2**bits) - 1,
        scale_bits=bits or None,
    )


def _cut(packed: FloatArray, names: tuple[str, ...]) -> dict[str, FloatArray]:
    values: dict[str, FloatArray] = {}
    start = 0
    for section in metric_sections(names):
        values[section.name] = np.asarray(packed[start : start + section.length], dtype=np.float64)
        start += section.length
    return values
