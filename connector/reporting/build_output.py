"""The folder that a job ends in: model, model card for programs, report as JSON and as a page; all of it or nothing."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from connector.reporting.observations import NOTHING, Observations, observations_document
from connector.reporting.page import render_page
from learning.models import load_weights, parameter_count, parse_model
from learning.views import output_digest, parse_view
from policies.canonical import sha256_hex

MODEL_FORMAT = "orchard-model/1"
REPORT_FORMAT = "orchard-report/1"
WEIGHTS_FILE, MODEL_FILE, REPORT_FILE, PAGE_FILE = "model.safetensors", "model.json", "report.json", "report.html"
FILES = frozenset({WEIGHTS_FILE, MODEL_FILE, REPORT_FILE, PAGE_FILE})


class OutputError(Exception):
    """The output cannot be written as asked: the folder is somebody else's, or the parts contradict each other.

    ``code``: ``output-folder-taken`` (the caller's choice of folder) or ``output-contradicts`` (a fault of ours).
    """

    def __init__(self, code: str, message: str) -> None:
        """Make the error."""
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """Where a job's result lies."""

    folder: Path
    weights: Path
    model: Path
    report: Path
    page: Path


def check_destination(out_dir: Path, *, force: bool = False) -> None:
    """Refuse a folder that is not ours to replace; worth asking before a job starts.

    Raises:
        OutputError: ``output-folder-taken``.
    """
    if not force and _foreign(out_dir):
        raise OutputError(
            "output-folder-taken",
            f"{out_dir} exists and is not an earlier output: choose another folder, or use --force to move it aside",
        )


def write_output(
    out_dir: Path,
    report_document: Mapping[str, Any],
    weights: bytes,
    model_spec: Mapping[str, Any],
    view_document: Mapping[str, Any] | None = None,
    observations: Observations = NOTHING,
    *,
    force: bool = False,
) -> Output:
    """Write a job's result to ``out_dir``, whole or not at all; an earlier output there is replaced.

    Args:
        out_dir: the folder; its parent is made when it is missing. A folder that is not an earlier output is refused,
            or, with ``force``, moved aside to ``NAME.replaced-1``; it is never deleted.
        report_document: the signed training report, ``{"payload": ..., "signature": ...}``.
        weights: the model's safetensors bytes, as the report names them by SHA-256.
        model_spec: the model document of the plan (`learning.models`).
        view_document: the feature view that the model's inputs come from, as parsed; None when it is not known.
        observations: the unsigned part.
        force: see ``out_dir``.

    Raises:
        OutputError: the folder is taken, or weights, spec, view and report do not belong together.
        WeightsError: the bytes are not weights of ``model_spec``.
    """
    check_destination(out_dir, force=force)
    files = _files(report_document, weights, model_spec, view_document, observations)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        beside.chmod(0o755)
        for name, data in files.items():
            (beside / name).write_bytes(data)
        _put_in_place(beside, out_dir)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Output(
        folder=out_dir,
        weights=out_dir / WEIGHTS_FILE,
        model=out_dir / MODEL_FILE,
        report=out_dir / REPORT_FILE,
        page=out_dir / PAGE_FILE,
    )


def _files(
    report: Mapping[str, Any],
    weights: bytes,
    model_spec: Mapping[str, Any],
    view: Mapping[str, Any] | None,
    observations: Observations,
) -> dict[str, bytes]:
    payload = report["payload"]
    plan = payload["plan"]
    spec = parse_model(model_spec)
    load_weights(spec, weights)
    if sha256_hex(weights) != payload["weights"]:
        raise OutputError("output-contradicts", "the report names other weights than the ones given")
    if parse_model(plan["model"]) != spec:
        raise OutputError("output-contradicts", "the report's plan trains another model than the one given")
    whole = {
        "format": REPORT_FORMAT,
        "report": dict(report),
        "observations": observations_document(observations),
    }
    report_bytes = _json(whole)
    model = {
        "format": MODEL_FORMAT,
        "title": plan["title"],
        "purpose": plan["purpose"],
        "model": dict(model_spec),
        "parameters": parameter_count(spec),
        "shape": plan["shape"],
        "features": plan["features"],
        "view": None if view is None else dict(view),
        "view_output": None if view is None else output_digest(parse_view(view)),
        "metrics": payload["final"],
        "job": payload["job"],
        "plan_digest": payload["plan_digest"],
        "weights": {"file": WEIGHTS_FILE, "sha256": payload["weights"], "bytes": len(weights)},
        "report": {"file": REPORT_FILE, "sha256": sha256_hex(report_bytes)},
        "how_to_load": [
            "orchard predict --model . --view VIEW.toml --data FOLDER",
            "safetensors.numpy.load_file('model.safetensors'), then learning.models.load_weights for the checks",
        ],
    }
    page = render_page(report, observations)
    return {
        WEIGHTS_FILE: weights,
        REPORT_FILE: report_bytes,
        MODEL_FILE: _json(model),
        PAGE_FILE: page.encode(),
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _foreign(out_dir: Path) -> bool:
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        return True
    if not out_dir.exists():
        return False
    names = {path.name for path in out_dir.iterdir()}
    return bool(names) and not (names <= FILES and _is_ours(out_dir / MODEL_FILE))


def _is_ours(model_file: Path) -> bool:
    try:
        document = json.loads(model_file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == MODEL_FORMAT


def _put_in_place(beside: Path, out_dir: Path) -> None:
    """Rename the finished folder into place; should that fail, the earlier one comes back."""
    if not (out_dir.exists() or out_dir.is_symlink()):
        beside.rename(out_dir)
        return
    keep = _foreign(out_dir)
    aside = _free_name(out_dir) if keep else beside.with_name(beside.name + ".old")
    out_dir.rename(aside)
    try:
        beside.rename(out_dir)
    except OSError:
        aside.rename(out_dir)
        raise
    if not keep:
        shutil.rmtree(aside)


def _free_name(out_dir: Path) -> Path:
    number = 1
    while (candidate := out_dir.with_name(f"{out_dir.name}.replaced-{number}")).exists():
        number += 1
    return candidate
