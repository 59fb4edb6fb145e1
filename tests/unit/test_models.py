"""Model documents, weights and their bytes."""

import math
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from learning.models import (
    Dkt,
    LogisticRegression,
    Mlp,
    ModelSpec,
    ModelSpecError,
    WeightsError,
    flatten,
    initial_weights,
    load_weights,
    model_document,
    parameter_count,
    parameter_shapes,
    parse_model,
    save_weights,
    unflatten,
    weights_digest,
)

SPECS: tuple[ModelSpec, ...] = (
    LogisticRegression(inputs=13),
    Mlp(inputs=7, hidden=(6, 4)),
    Dkt(skills=5, embedding=3, hidden=4),
)


@pytest.mark.parametrize("spec", SPECS)
def test_document_reads_back_as_the_same_model(spec: ModelSpec) -> None:
    """A model written as JSON is read back as an equal value."""
    assert parse_model(model_document(spec)) == spec


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "transformer", "inputs": 3},
        {"kind": "logistic-regression"},
        {"kind": "logistic-regression", "inputs": 0},
        {"kind": "logistic-regression", "inputs": True},
        {"kind": "logistic-regression", "inputs": 13.0},
        {"kind": "logistic-regression", "inputs": 13, "code": "x"},
        {"kind": "mlp", "inputs": 3, "hidden": []},
        {"kind": "mlp", "inputs": 3, "hidden": [4] * 9},
        {"kind": "mlp", "inputs": 100_000, "hidden": [4_096]},
        {"kind": "dkt", "skills": 5, "embedding": 3},
        {"kind": "dkt", "skills": 10**9, "embedding": 3, "hidden": 4},
    ],
)
def test_unknown_or_unbounded_documents_are_refused(document: dict[str, Any]) -> None:
    """A model that is not one of ours, or too big, is refused before anything is allocated."""
    with pytest.raises(ModelSpecError):
        parse_model(document)


@pytest.mark.parametrize("spec", SPECS)
def test_initial_weights_depend_on_the_seed_only(spec: ModelSpec) -> None:
    """The same seed gives the same bytes, another seed others."""
    first, again, other = (weights_digest(spec, initial_weights(spec, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_initial_weights_follow_the_default_law() -> None:
    """Linear layers stay within 1/sqrt(fan-in) and fill that range; embeddings have unit variance."""
    weights = initial_weights(Dkt(skills=400, embedding=25, hidden=64), seed=3)
    assert weights["embedding.weight"].std() == pytest.approx(1, abs=0.02)
    for name in ("lstm.weight_ih_l0", "lstm.bias_hh_l0", "output.weight", "output.bias"):
        assert 0.11 < np.abs(weights[name]).max() <= 1 / math.sqrt(64)


def test_initial_weights_are_pinned() -> None:
    """The first numbers of a seeded start never change, or old plans could not be run again."""
    weights = initial_weights(LogisticRegression(inputs=3), seed=42)
    pinned = [0.3163371980190277, -0.07057709991931915, 0.4140731990337372]
    assert weights["linear.weight"].tolist() == [pinned]


@pytest.mark.parametrize("spec", SPECS)
def test_flat_vector_and_bytes_bring_back_every_weight(spec: ModelSpec) -> None:
    """Flattening and saving lose nothing."""
    weights = initial_weights(spec, seed=5)
    vector = flatten(spec, weights)
    assert vector.shape == (parameter_count(spec),)
    for back in (unflatten(spec, vector), load_weights(spec, save_weights(spec, weights))):
        assert list(back) == list(parameter_shapes(spec))
        assert all((back[name] == weights[name]).all() for name in weights)


def test_equal_weights_are_equal_bytes_in_any_order() -> None:
    """The order in which arrays are handed over does not change the blob."""
    spec = SPECS[1]
    weights = initial_weights(spec, seed=1)
    assert save_weights(spec, dict(reversed(weights.items()))) == save_weights(spec, weights)


def test_foreign_tensors_are_refused() -> None:
    """Missing, extra, reshaped, retyped and non-finite tensors are refused, and so are bytes of another kind."""
    spec = SPECS[0]
    good: dict[str, Any] = dict(initial_weights(spec, seed=1))
    bad: list[dict[str, Any]] = [
        {"linear.weight": good["linear.weight"]},
        {**good, "extra": np.zeros(1, np.float32)},
        {**good, "linear.bias": np.zeros(2, np.float32)},
        {**good, "linear.bias": np.zeros(1, np.float64)},
        {**good, "linear.bias": np.array([np.nan], np.float32)},
    ]
    for tensors in bad:
        with pytest.raises(WeightsError):
            load_weights(spec, save(tensors))
    for data in (b"", b"no safetensors at all", save_weights(spec, good)[:-1]):
        with pytest.raises(WeightsError):
            load_weights(spec, data)


def test_vectors_of_another_length_or_type_are_refused() -> None:
    """A vector is only cut when it is exactly the model's."""
    spec = SPECS[0]
    for vector in (np.zeros(13, np.float32), np.zeros(14), np.full(14, np.inf, np.float32)):
        with pytest.raises(WeightsError):
            unflatten(spec, vector.astype(vector.dtype))
