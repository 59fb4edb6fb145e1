"""What one contribution is made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.metrics import local_metrics, summarise
from learning.models import parameter_count, parse_model
from learning.plans import TrainingPlan, parse_plan
from learning.secagg.quantize import RoundingStream
from learning.vectors import clip_norm, contribution, layout, mean_update, metric_sums, splits
from tests.support.federation import plan_payload


def plan(**changes: object) -> TrainingPlan:
    return parse_plan(plan_payload(**changes))


def metrics(seed: int, rows: int = 40) -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return {
        split: local_metrics(random.uniform(0, 1, rows), random.integers(0, 2, rows)) for split in ("valid", "test")
    }


def test_every_member_derives_the_same_layout() -> None:
    """The layout follows from the plan and the number of members alone."""
    assert layout(plan(), 3) == layout(plan(), 3)
    assert layout(plan(), 3) != layout(plan(), 4)
    names = [section.name for section in layout(plan(), 3).sections]
    assert names[:2] == ["delta", "weight"]
    assert {name.split(".")[0] for name in names[2:]} == set(splits(plan()))


def test_the_evaluation_decides_which_splits_travel() -> None:
    """A plan without a baseline carries none; fine-tuning adds its own."""
    assert splits(plan()) == ("valid", "test")
    assert splits(plan(evaluation={"baseline": True, "finetune": True})) == ("valid", "test", "local", "finetuned")


@pytest.mark.parametrize("bits", [32, 64])
def test_sums_come_back_within_the_codes_resolution(bits: int) -> None:
    """Encoded, added and decoded, three contributions give their weighted mean and exact counts."""
    chosen = plan(aggregation={"bits": bits})
    shape = layout(chosen, 3)
    size = parameter_count(parse_model(chosen.model))
    random = np.random.default_rng(1)
    deltas, rows = [random.normal(0, 0.5, size) for _ in range(3)], [10, 200, 3000]
    total = np.zeros(shape.d, dtype=np.uint32 if bits == 32 else np.uint64)
    for number in range(3):
        values = contribution(chosen, delta=deltas[number], train_rows=rows[number], metrics=metrics(number))
        total = total + shape.encode(values, RoundingStream(bytes([number]) * 32))
    sums = shape.decode(total, 3)
    expected = sum(d * r for d, r in zip(deltas, rows, strict=True)) / sum(rows)
    np.testing.assert_allclose(mean_update(sums), expected, atol=1e-3)
    shown = summarise(metric_sums(chosen, sums)["test"])
    assert (shown["count"], shown["contributors"]) == (120, 3)


def test_a_large_update_is_clipped_before_it_is_weighted() -> None:
    """The norm of an update is bounded by the plan; its direction stays."""
    chosen = plan(clip=1.0)
    size = parameter_count(parse_model(chosen.model))
    values = contribution(chosen, delta=np.full(size, 100.0), train_rows=chosen.weight_cap, metrics=metrics(1))
    assert np.linalg.norm(values["delta"]) == pytest.approx(1.0)
    assert values["weight"] == pytest.approx([1.0])


def test_rows_beyond_the_cap_do_not_count() -> None:
    """One very large contributor weighs at most the cap."""
    size = parameter_count(parse_model(plan().model))
    values = contribution(plan(weight_cap=100), delta=np.ones(size), train_rows=10**9, metrics=metrics(1))
    assert values["weight"] == pytest.approx([1.0])


def test_an_evaluation_round_moves_nothing() -> None:
    """Without an update the model's part is zero, and the mean update of nobody is zero, not a division by it."""
    values = contribution(plan(), delta=None, train_rows=50, metrics=metrics(1))
    assert not values["delta"].any()
    assert not values["weight"].any()
    np.testing.assert_array_equal(mean_update(values), np.zeros_like(values["delta"]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.floats(0.01, 1e3))
def test_clipping_never_lengthens_or_turns(numbers: list[float], bound: float) -> None:
    """The clipped update is no longer than the bound and points where the update pointed."""
    delta = np.array(numbers)
    clipped = clip_norm(delta, bound)
    assert np.linalg.norm(clipped) <= max(bound, 0) * (1 + 1e-9)
    assert (np.sign(clipped) * np.sign(delta) >= 0).all()
