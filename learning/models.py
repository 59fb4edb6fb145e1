"""Declarative models: what is trained, said in JSON, and its weights as plain arrays. No torch here.

A model is one of three kinds (anything else is refused):

* ``{"kind": "logistic-regression", "inputs": d}``: one logit from ``d`` features.
* ``{"kind": "mlp", "inputs": d, "hidden": [64, 32]}``: ReLU layers, then one logit.
* ``{"kind": "dkt", "skills": n, "embedding": 32, "hidden": 64}``: deep knowledge tracing (Piech et al. 2015): an LSTM
  over answers. An event's input is the mean of the embeddings of its (skill, correct) pairs, row ``skill + n * correct``;
  the prediction for the next event is the mean of the logits of its skills. The first answer is not predicted.

Weights are ``{name: float32 array}`` with the names and the order of `parameter_shapes`; as bytes they are safetensors
without metadata, so that equal weights are equal bytes and `weights_digest` is the address of the blob.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies.canonical import Json, sha256_hex

Shape: TypeAlias = tuple[int, ...]
Weights: TypeAlias = dict[str, NDArray[np.float32]]

_MAX_WIDTH: Final = 100_000
_MAX_HIDDEN: Final = 4_096
_MAX_LAYERS: Final = 6
_MAX_PARAMETERS: Final = 20_000_000


class ModelSpecError(ValueError):
    """The peer's model document is not a model we can build."""

    code = "model_spec_invalid"


class WeightsError(ValueError):
    """Arrays or bytes that are not finite float32 weights of the model they are said to belong to."""

    code = "weights_invalid"


@dataclass(frozen=True, kw_only=True)
class LogisticRegression:
    """One logit from ``inputs`` features."""

    inputs: int


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """ReLU layers of the given widths, then one logit."""

    inputs: int
    hidden: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Dkt:
    """Deep knowledge tracing over ``skills`` skills: embedding width and LSTM width."""

    skills: int
    embedding: int
    hidden: int


ModelSpec: TypeAlias = LogisticRegression | Mlp | Dkt


def parse_model(document: Mapping[str, Any]) -> ModelSpec:
    """Return the model that ``document`` declares.

    Raises:
        ModelSpecError: unknown kind or member, a wrong type, a width out of bounds, or over 20 million parameters.
    """
    if not isinstance(document, Mapping):
        raise ModelSpecError("a model is a JSON object")
    members = dict(document)
    kind = members.pop("kind", None)
    spec: ModelSpec
    if kind == "logistic-regression":
        spec = LogisticRegression(inputs=_width(members, "inputs", _MAX_WIDTH))
    elif kind == "mlp":
        spec = Mlp(inputs=_width(members, "inputs", _MAX_WIDTH), hidden=_layers(members))
    elif kind == "dkt":
        spec = Dkt(
            skills=_width(members, "skills", _MAX_WIDTH),
            embedding=_width(members, "embedding", _MAX_HIDDEN),
            hidden=_width(members, "hidden", _MAX_HIDDEN),
        )
    else:
        raise ModelSpecError(f"model kind {kind!r} is unknown; known are logistic-regression, mlp and dkt")
    if members:
        raise ModelSpecError(f"a {kind} model has no member {min(map(str, members))!r}")
    if (count := parameter_count(spec)) > _MAX_PARAMETERS:
        raise ModelSpecError(f"the model has {count} parameters; at most {_MAX_PARAMETERS} are accepted")
    return spec


def model_document(spec: ModelSpec) -> dict[str, Json]:
    """Return the JSON object that `parse_model` reads back as ``spec``."""
    match spec:
        case LogisticRegression():
            return {"kind": "logistic-regression", "inputs": spec.inputs}
        case Mlp():
            return {"kind": "mlp", "inputs": spec.inputs, "hidden": list(spec.hidden)}
        case Dkt():
            return {"kind": "dkt", "skills": spec.skills, "embedding": spec.embedding, "hidden": spec.hidden}


def parameter_shapes(spec: ModelSpec) -> dict[str, Shape]:
    """Return name -> shape of every parameter, in the order of the flat vector (torch's own names and shapes)."""
    match spec:
        case LogisticRegression():
            return {"linear.weight": (1, spec.inputs), "linear.bias": (1,)}
        case Mlp():
            shapes: dict[str, Shape] = {}
            widths = (spec.inputs, *spec.hidden, 1)
            for index, (into, out) in enumerate(pairwise(widths)):
                shapes[f"layers.{index}.weight"] = (out, into)
                shapes[f"layers.{index}.bias"] = (out,)
            return shapes
        case Dkt():
            return {
                "embedding.weight": (2 * spec.skills, spec.embedding),
                "lstm.weight_ih_l0": (4 * spec.hidden, spec.embedding),
                "lstm.weight_hh_l0": (4 * spec.hidden, spec.hidden),
                "lstm.bias_ih_l0": (4 * spec.hidden,),
                "lstm.bias_hh_l0": (4 * spec.hidden,),
                "output.weight": (spec.skills, spec.hidden),
                "output.bias": (spec.skills,),
            }


def parameter_count(spec: ModelSpec) -> int:
    """Return the length of the flat vector."""
    return sum(math.prod(shape) for shape in parameter_shapes(spec).values())


def initial_weights(spec: ModelSpec, *, seed: int) -> Weights:
    """Draw the weights a job starts from; the same ``seed`` gives the same bytes on every machine.

    The law is torch's default: linear layers and LSTM uniform in ±1/sqrt(fan-in) (LSTM: hidden width), embeddings
    standard normal. The generator is numpy's PCG64, one stream, in the order of `parameter_shapes`.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    weights: Weights = {}
    bound = 0.0
    for name, shape in parameter_shapes(spec).items():
        if name == "embedding.weight":
            weights[name] = generator.standard_normal(shape).astype(np.float32)
            continue
        if name.startswith("lstm."):
            bound = 1 / math.sqrt(shape[0] // 4)
        elif len(shape) > 1:
            # A bias follows its matrix and shares its bound.
            bound = 1 / math.sqrt(shape[1])
        weights[name] = generator.uniform(-bound, bound, shape).astype(np.float32)
    return weights


def flatten(spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return the weights as one float32 vector [parameter_count].

    Raises:
        WeightsError: a name, shape or dtype differs, or a value is not finite.
    """
    checked = checked_weights(spec, weights)
    return np.concatenate([checked[name].ravel() for name in parameter_shapes(spec)])


def unflatten(spec: ModelSpec, vector: NDArray[np.float32]) -> Weights:
    """Cut a float32 vector [parameter_count] into named arrays (copies).

    Raises:
        WeightsError: the length or dtype differs, or a value is not finite.
    """
    if vector.dtype != np.float32 or vector.shape != (parameter_count(spec),):
        raise WeightsError(f"expected float32 [{parameter_count(spec)}], got {vector.dtype} {list(vector.shape)}")
    if not np.isfinite(vector).all():
        raise WeightsError("the vector holds a value that is not finite")
    weights: Weights = {}
    start = 0
    for name, shape in parameter_shapes(spec).items():
        stop = start + math.prod(shape)
        weights[name] = vector[start:stop].reshape(shape).copy()
        start = stop
    return weights


def checked_weights(spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> Weights:
    """Return ``weights`` in model order once names, shapes, dtype and finiteness are right.

    Raises:
        WeightsError: a tensor is missing or extra, has another shape or dtype, or holds NaN or infinity.
    """
    shapes = parameter_shapes(spec)
    if missing := sorted(set(shapes) - set(weights)):
        raise WeightsError(f"tensor {missing[0]!r} is missing")
    if extra := sorted(set(weights) - set(shapes)):
        raise WeightsError(f"tensor {extra[0]!r} does not belong to this model")
    for name, shape in shapes.items():
        array = weights[name]
        if array.dtype != np.float32 or array.shape != shape:
            raise WeightsError(
                f"tensor {name!r}: expected float32 {list(shape)}, got {array.dtype} {list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise WeightsError(f"tensor {name!r} holds a value that is not finite")
    return {name: weights[name] for name in shapes}


def save_weights(spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the safetensors bytes of checked weights; equal weights give equal bytes.

    Raises:
        WeightsError: as in `checked_weights`.
    """
    return save({name: np.ascontiguousarray(array) for name, array in checked_weights(spec, weights).items()})


def load_weights(spec: ModelSpec, data: bytes) -> Weights:
    """Read safetensors bytes as weights of ``spec``.

    Raises:
        WeightsError: not safetensors, or as in `checked_weights`.
    """
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise WeightsError("the bytes are not a safetensors file") from error
    return checked_weights(spec, tensors)


def weights_digest(spec: ModelSpec, weights: Mapping[str, NDArray[Any]]) -> str:
    """Return the hexadecimal SHA-256 of `save_weights`: the address of the model blob."""
    return sha256_hex(save_weights(spec, weights))


def _width(members: dict[str, Any], name: str, limit: int) -> int:
    value = members.pop(name, None)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise ModelSpecError(f"{name!r} must be an integer between 1 and {limit}")
    return value


def _layers(members: dict[str, Any]) -> tuple[int, ...]:
    value = members.pop("hidden", None)
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _MAX_LAYERS:
        raise ModelSpecError(f"'hidden' must list between 1 and {_MAX_LAYERS} layer widths")
    return tuple(_width({"hidden": width}, "hidden", _MAX_HIDDEN) for width in value)
