"""A model that a job wrote, read back: weights that are the ones named, for a spec that we know."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from connector.reporting.build_output import MODEL_FILE, MODEL_FORMAT, WEIGHTS_FILE
from learning.models import ModelSpec, ModelSpecError, WeightsError, load_weights, parse_model
from policies.canonical import sha256_hex


class ModelFileError(Exception):
    """The model cannot be used: a file is missing or damaged, or it is another program's; the message says what to do."""

    code = "model-file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model on disk. ``features`` is the digest of what its inputs must be; ``weights`` are safetensors bytes."""

    title: str
    spec: ModelSpec
    shape: str
    features: str
    view_output: str | None
    weights: bytes = dataclasses.field(repr=False)


def read_model(place: Path) -> TrainedModel:
    """Return the model in an output folder, or the one that a ``model.json`` or ``model.safetensors`` belongs to.

    Raises:
        ModelFileError: see there.
    """
    folder = place if place.is_dir() else place.parent
    if not place.exists():
        raise ModelFileError(f"there is no model at {place}: name the output folder of a finished job")
    document = _document(folder / MODEL_FILE)
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
        spec = parse_model(document["model"])
        load_weights(spec, weights)
        named = document["weights"]["sha256"]
        model = TrainedModel(
            title=str(document["title"]),
            spec=spec,
            shape=str(document["shape"]),
            features=str(document["features"]),
            view_output=document.get("view_output"),
            weights=weights,
        )
    except OSError:
        raise ModelFileError(f"{folder / WEIGHTS_FILE} cannot be read: copy it beside {MODEL_FILE}") from None
    except (KeyError, TypeError, ModelSpecError, WeightsError) as error:
        raise ModelFileError(f"{folder} holds no usable model: {error}") from None
    if sha256_hex(weights) != named:
        raise ModelFileError(
            f"{folder / WEIGHTS_FILE} is not the file that {MODEL_FILE} names: it was changed or replaced"
        )
    return model


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except OSError:
        raise ModelFileError(f"{path} cannot be read: the model's description must lie beside its weights") from None
    except ValueError:
        raise ModelFileError(f"{path} is not JSON: it was changed or cut off") from None
    if not isinstance(document, dict) or document.get("format") != MODEL_FORMAT:
        raise ModelFileError(f"{path} is not a model of this version ({MODEL_FORMAT})")
    return document
