"""The published OpenAPI documents."""

import json

import pytest
from openapi_spec_validator import validate

from connector.openapi import DOCUMENTS, documents


@pytest.fixture(scope="module")
def published() -> dict[str, dict]:
    return {name: json.loads(text) for name, text in documents().items()}


def test_every_document_is_valid_and_whole(published: dict[str, dict]) -> None:
    """Each document is valid OpenAPI: every reference in it resolves in it."""
    assert set(published) == set(DOCUMENTS)
    for document in published.values():
        validate(document)
        assert document["paths"]


def test_every_route_is_published_once(published: dict[str, dict]) -> None:
    """No path is in two documents, and each is where its prefix says."""
    paths = [path for document in published.values() for path in document["paths"]]
    assert len(paths) == len(set(paths))
    for name, document in published.items():
        assert all(path.startswith(DOCUMENTS[name]) for path in document["paths"])


def test_management_routes_need_an_operator(published: dict[str, dict]) -> None:
    """Every management route names the operator's token as its security."""
    open_routes = [
        f"{method} {path}"
        for path, item in published["management"]["paths"].items()
        for method, route in item.items()
        if not path.startswith("/health") and {"operator": []} not in route.get("security", [])
    ]
    assert open_routes == []
