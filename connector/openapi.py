"""The published interface: one OpenAPI document per audience, generated from the running app's routes."""

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from connector.app import create_app
from connector.enrolment import Enrolment, admit_request, create_authority, create_participant
from connector.foundation import lay_foundation
from connector.settings import Settings
from connector.storage.migrate import upgrade
from connector.wiring import wire_api

# Paths by document; the first prefix that fits decides.
DOCUMENTS: Mapping[str, tuple[str, ...]] = {
    "dsp": ("/dsp", "/.well-known"),
    "management": ("/management", "/health", "/metrics"),
    "consent": ("/consent", "/prometheus-x"),
    "learning": ("/learning",),
}
_TITLES = {
    "dsp": "Orchard: Dataspace Protocol 2025-1",
    "management": "Orchard: management",
    "consent": "Orchard: consent",
    "learning": "Orchard: learning",
}
# Any time will do: only the shape of the app is read.
_THEN = datetime(2026, 1, 1, tzinfo=UTC)


class OpenapiError(Exception):
    """The committed documents differ from the app's routes; ours."""

    code = "openapi-drift"


def documents() -> dict[str, str]:
    """Return the text of each document by name, from an app wired for a participant made for the purpose."""
    with tempfile.TemporaryDirectory(prefix="orchard-openapi-") as name:
        folder = Path(name)
        create_authority(folder / "authority")
        enrolment = Enrolment(name="Orchard", organisation="Orchard", role="data-provider", port=8100)
        request = create_participant(folder / "participant", enrolment, folder / "authority/authority.json", _THEN)
        admit_request(folder / "authority", request, folder / "participant/membership.jwt", _THEN)
        settings = Settings.load(folder / "participant", {})
        upgrade(settings.storage.database_url)
        foundation = lay_foundation(settings, now=lambda: _THEN)
        try:
            return split(create_app(settings, wire_api(foundation)))
        finally:
            foundation.close()


def split(app: FastAPI) -> dict[str, str]:
    """Return an app's OpenAPI as sorted JSON text by document name; each holds only what its own routes refer to."""
    whole = app.openapi()
    found = {}
    for name, prefixes in DOCUMENTS.items():
        paths = {path: item for path, item in whole["paths"].items() if path.startswith(prefixes)}
        document = {
            "openapi": whole["openapi"],
            "info": {"title": _TITLES[name], "version": whole["info"]["version"]},
            "paths": paths,
            "components": _used(paths, whole.get("components", {})),
        }
        found[name] = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return found


def write(folder: Path) -> list[Path]:
    """Write the documents into ``folder``, which is the repository's ``openapi/``; return what changed."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in documents().items():
        file = folder / f"{name}.json"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(file)
    return changed


def check(folder: Path) -> None:
    """Compare the documents in ``folder`` with the app.

    Raises:
        OpenapiError: naming the files that differ.
    """
    files = {folder / f"{name}.json": text for name, text in documents().items()}
    stale = [str(file) for file, text in files.items() if not file.exists() or file.read_text("utf-8") != text]
    if stale:
        raise OpenapiError(f"{', '.join(stale)}: not what the routes say; run: orchard openapi")


def _used(paths: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    schemas, schemes = components.get("schemas", {}), components.get("securitySchemes", {})
    wanted: set[str] = set()
    waiting = _references(paths)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting |= _references(schemas[name])
    secured = {
        scheme
        for item in paths.values()
        for route in item.values()
        for need in route.get("security", ())
        for scheme in need
    }
    return {
        "schemas": {name: schemas[name] for name in wanted},
        "securitySchemes": {name: schemes[name] for name in secured},
    }


def _references(value: object) -> set[str]:
    if isinstance(value, Mapping):
        here = {str(value["$ref"]).rpartition("/")[2]} if isinstance(value.get("$ref"), str) else set()
        return here.union(*(_references(part) for part in value.values()))
    if isinstance(value, list):
        return set().union(*(_references(part) for part in value))
    return set()
