"""Server optimisers: how the collector turns the mean update of a round into the next weights.

Pure functions over flat vectors, float64 inside, float32 out, no hidden state: the job saves the returned state between
rounds. FedAvg is McMahan et al. 2017; FedAdagrad, FedAdam and FedYogi are Algorithm 2 of Reddi et al. 2021 ("Adaptive
Federated Optimization"), without bias correction, the second moment starting at tau squared as the paper asks. The
default tau is smaller than the paper's 1e-3: means over whole epochs of few providers move a parameter by less than
that (knowledge tracing on 16 schools, round 30: pooled AUC 0.651 with 1e-3, 0.704 with 1e-4, 0.723 with 1e-6).
FedProx is FedAvg here: its proximal term belongs to the local steps (`learning.local`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.canonical import Json

Vector: TypeAlias = NDArray[np.float64]
State: TypeAlias = dict[str, Vector]


class StrategyError(ValueError):
    """The peer's plan names no server optimiser we have, or gives it an impossible setting."""

    code = "strategy_invalid"


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """Move by the mean update times ``learning_rate`` (1 is plain averaging)."""

    learning_rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FedAdam:
    """Adam at the server: second moment is a decaying mean of squared updates."""

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class FedYogi:
    """Yogi at the server: the second moment moves by a sign, so that it shrinks slowly."""

    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class FedAdagrad:
    """Adagrad at the server: the second moment only grows."""

    learning_rate: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-6


Strategy: TypeAlias = FedAvg | FedAdam | FedYogi | FedAdagrad

_HIGHEST_RATE: Final = 1_000
_KINDS: Final[dict[str, type[Strategy]]] = {
    "fedavg": FedAvg,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
}


def parse_strategy(document: Mapping[str, Any]) -> Strategy:
    """Return the strategy of ``{"kind": "fedadam", "learning_rate": 0.01, ...}``; settings left out take defaults.

    Raises:
        StrategyError: unknown kind or setting, or a value out of range.
    """
    if not isinstance(document, Mapping):
        raise StrategyError("a strategy is a JSON object")
    members = dict(document)
    name = members.pop("kind", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise StrategyError(f"strategy {name!r} is unknown; known are {', '.join(sorted(_KINDS))}")
    known = asdict(kind())
    for member, value in members.items():
        if member not in known:
            raise StrategyError(f"{name} has no setting {member!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not _in_range(member, value):
            raise StrategyError(f"{member!r} of {name} is out of range")
    return kind(**{member: float(value) for member, value in members.items()})


def strategy_document(strategy: Strategy) -> dict[str, Json]:
    """Return the JSON object that `parse_strategy` reads back as ``strategy``, with every setting spelt out."""
    name = next(name for name, kind in _KINDS.items() if type(strategy) is kind)
    return {"kind": name, **asdict(strategy)}


def initial_state(strategy: Strategy, parameters: int) -> State:
    """Return the state before round 1: nothing for FedAvg, else ``momentum`` and ``second_moment`` [parameters]."""
    if isinstance(strategy, FedAvg):
        return {}
    return {
        "momentum": np.zeros(parameters, dtype=np.float64),
        "second_moment": np.full(parameters, strategy.tau**2, dtype=np.float64),
    }


def apply(
    strategy: Strategy, weights: NDArray[np.float32], mean_delta: NDArray[np.floating[Any]], state: Mapping[str, Vector]
) -> tuple[NDArray[np.float32], State]:
    """Return the next weights and state.

    Args:
        strategy: the server optimiser.
        weights: the round's model, float32 [parameters].
        mean_delta: weighted mean of (local - global), [parameters].
        state: what `initial_state` or the previous call returned; not changed.

    Raises:
        StrategyError: lengths differ, the state is another strategy's, or the result is not finite.
    """
    before = weights.astype(np.float64)
    delta = np.asarray(mean_delta, dtype=np.float64)
    expected = set() if isinstance(strategy, FedAvg) else {"momentum", "second_moment"}
    if set(state) != expected or any(array.shape != before.shape for array in (delta, *state.values())):
        raise StrategyError("weights, update and state do not belong together")
    if isinstance(strategy, FedAvg):
        return _finite(before + strategy.learning_rate * delta), {}
    momentum = strategy.beta1 * state["momentum"] + (1 - strategy.beta1) * delta
    second = _second_moment(strategy, state["second_moment"], np.square(delta))
    after = before + strategy.learning_rate * momentum / (np.sqrt(second) + strategy.tau)
    return _finite(after), {"momentum": momentum, "second_moment": second}


def _second_moment(strategy: FedAdam | FedYogi | FedAdagrad, second: Vector, square: Vector) -> Vector:
    match strategy:
        case FedAdagrad():
            return second + square
        case FedAdam():
            return strategy.beta2 * second + (1 - strategy.beta2) * square
        case FedYogi():
            return second - (1 - strategy.beta2) * square * np.sign(second - square)


def _finite(values: Vector) -> NDArray[np.float32]:
    result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise StrategyError("the update leaves the range of float32")
    return result


def _in_range(member: str, value: float) -> bool:
    if member.startswith("beta"):
        return 0 <= value < 1
    return 0 < value <= _HIGHEST_RATE
