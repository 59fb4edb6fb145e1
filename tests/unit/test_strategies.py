"""Server optimisers as pure functions."""

from typing import Any

import numpy as np
import pytest

from learning.strategies import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedYogi,
    Strategy,
    StrategyError,
    apply,
    initial_state,
    parse_strategy,
    strategy_document,
)

STRATEGIES: tuple[Strategy, ...] = (FedAvg(), FedAdam(), FedYogi(beta1=0.5), FedAdagrad(tau=0.1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_document_reads_back_as_the_same_strategy(strategy: Strategy) -> None:
    """A strategy written as JSON is read back as an equal value."""
    assert parse_strategy(strategy_document(strategy)) == strategy


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "krum"},
        {"kind": ["fedavg"]},
        {"kind": "fedavg", "beta1": 0.9},
        {"kind": "fedadam", "beta2": 1.0},
        {"kind": "fedadam", "tau": 0},
        {"kind": "fedadam", "learning_rate": "0.1"},
        {"kind": "fedadam", "learning_rate": float("nan")},
    ],
)
def test_unknown_kinds_and_settings_are_refused(document: dict[str, Any]) -> None:
    """A setting we do not have, or out of range, is refused instead of ignored."""
    with pytest.raises(StrategyError):
        parse_strategy(document)


def test_plain_averaging_adds_the_mean_update() -> None:
    """FedAvg with learning rate 1 is the sum of weights and mean update, without state."""
    weights, state = apply(FedAvg(), np.array([1, 2], np.float32), np.array([0.5, -0.25]), {})
    assert weights.tolist() == [1.5, 1.75]
    assert weights.dtype == np.float32
    assert not state


def test_adaptive_steps_follow_the_paper_by_hand() -> None:
    """Two rounds of FedAdam equal Algorithm 2 of Reddi et al. written out for one number."""
    strategy = FedAdam(learning_rate=0.1, beta1=0.9, beta2=0.99, tau=0.01)
    weights, state = np.array([1.0], np.float32), initial_state(strategy, 1)
    value, momentum, second = 1.0, 0.0, 0.01**2
    for delta in (0.5, -0.2):
        weights, state = apply(strategy, weights, np.array([delta]), state)
        momentum = 0.9 * momentum + 0.1 * delta
        second = 0.99 * second + 0.01 * delta**2
        value = float(np.float32(value + 0.1 * momentum / (second**0.5 + 0.01)))
        assert weights[0] == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(
    ("strategy", "second"), [(FedAdagrad(tau=1.0), 1.25), (FedYogi(tau=1.0), 0.9975), (FedAdam(tau=1.0), 0.9925)]
)
def test_second_moments_differ_as_the_paper_says(strategy: Strategy, second: float) -> None:
    """From tau squared 1 and an update of 0.5, each rule gives its own second moment."""
    _, state = apply(strategy, np.zeros(1, np.float32), np.array([0.5]), initial_state(strategy, 1))
    assert state["second_moment"][0] == pytest.approx(second)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_apply_leaves_its_arguments_alone_and_repeats_exactly(strategy: Strategy) -> None:
    """The same arguments give the same bits twice, and are not written to."""
    weights, delta = np.linspace(-1, 1, 9, dtype=np.float32), np.linspace(1, 3, 9)
    state = initial_state(strategy, 9)
    kept = {name: array.copy() for name, array in state.items()}
    first, again = (apply(strategy, weights, delta, state) for _ in range(2))
    assert first[0].tobytes() == again[0].tobytes()
    assert all((state[name] == kept[name]).all() for name in kept)


def test_what_does_not_belong_together_is_refused() -> None:
    """Another length, another strategy's state, and a result beyond float32 are errors."""
    weights = np.zeros(2, np.float32)
    with pytest.raises(StrategyError):
        apply(FedAvg(), weights, np.zeros(3), {})
    with pytest.raises(StrategyError):
        apply(FedAdam(), weights, np.zeros(2), {})
    with pytest.raises(StrategyError), np.errstate(over="ignore"):
        apply(FedAvg(), weights, np.full(2, 1e39), {})
