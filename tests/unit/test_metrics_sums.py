"""Metrics as sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.metrics import (
    MetricsError,
    exact_auc,
    local_card,
    local_metrics,
    metric_sections,
    pack_metrics,
    summarise,
    unpack_metrics,
)


def test_auc_counts_pairs_and_halves_ties() -> None:
    """The rank AUC equals the share of rightly ordered pairs, ties counting half."""
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8, 0.9]), np.array([0, 1, 0, 0, 1])
    pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
    assert exact_auc(scores, labels) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0]])
def test_auc_of_one_class_is_not_said(labels: list[int]) -> None:
    """Without both classes there is no AUC, neither exact nor from sums."""
    scores = np.full(len(labels), 0.5)
    assert exact_auc(scores, np.array(labels)) is None
    assert summarise(local_metrics(scores, np.array(labels)))["auc"] is None


def test_summed_metrics_equal_those_of_the_pooled_rows() -> None:
    """Adding the vectors of two contributors gives the metrics of their rows together; macro is the mean of two."""
    generator = np.random.Generator(np.random.PCG64(1))
    parts = []
    for size, shift in ((20_000, 0.0), (900, 0.1)):
        labels = generator.integers(0, 2, size)
        parts.append((np.clip(generator.normal(0.4 + 0.2 * labels + shift, 0.2), 0, 1), labels))
    vectors = [pack_metrics({"test": local_metrics(*part, small=part[1].size < 1_000)}, ("test",)) for part in parts]
    summary = summarise(unpack_metrics(vectors[0] + vectors[1], ("test",))["test"])
    scores, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    card = local_card(scores, labels)
    for name in ("count", "positives", "accuracy", "loss", "brier", "ece"):
        assert summary[name] == pytest.approx(card[name])
    assert summary["auc"] == pytest.approx(card["auc"], abs=5e-4)
    aucs = [exact_auc(*part) for part in parts]
    assert summary["macro_auc"] == pytest.approx(sum(auc for auc in aucs if auc is not None) / 2)
    assert summary["small_macro_auc"] == pytest.approx(aucs[1])
    assert summary["small_contributors"] == 1


def test_card_of_a_small_example_by_hand() -> None:
    """Accuracy, loss, Brier and calibration of three rows are the textbook's."""
    card = local_card(np.array([0.9, 0.2, 0.5]), np.array([1, 0, 1]))
    assert card["accuracy"] == pytest.approx(2 / 3)
    assert card["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.5]).mean())
    assert card["brier"] == pytest.approx((0.01 + 0.04 + 0.25) / 3)
    assert card["ece"] == pytest.approx((0.09 + 0.21 + 0.49) / 3)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60))
def test_histograms_hold_every_row_once(rows: list[tuple[float, bool]]) -> None:
    """Whatever the scores, the two histograms hold the rows of their class and the loss is finite."""
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=int)
    sums = local_metrics(scores, labels)
    assert (sums["hist_pos"].sum(), sums["hist_neg"].sum()) == (labels.sum(), len(rows) - labels.sum())
    assert np.isfinite(sums["loss_sum"]).all()


def test_sections_name_the_vector_in_order() -> None:
    """Sections and packed vector have one length; a split that was not measured adds nothing."""
    sections = metric_sections(("valid", "test"))
    vector = pack_metrics({"test": local_metrics(np.array([0.3]), np.array([1]))}, ("valid", "test"))
    assert sum(section.length for section in sections) == vector.size == 218
    assert [section.name for section in sections][:2] == ["valid.count", "valid.positives"]
    assert unpack_metrics(vector, ("valid", "test"))["valid"]["hist_pos"].sum() == 0


def test_scores_and_labels_outside_their_range_are_refused() -> None:
    """A score that is no probability, a label that is no class and unequal lengths are errors, and so is a cut vector."""
    for scores, labels in (([1.2], [1]), ([float("nan")], [1]), ([0.2], [2]), ([0.2, 0.3], [1])):
        with pytest.raises(MetricsError):
            local_metrics(np.array(scores), np.array(labels))
    with pytest.raises(MetricsError):
        unpack_metrics(np.zeros(5), ("test",))
    with pytest.raises(MetricsError):
        pack_metrics({"test": {}}, ("test",))
