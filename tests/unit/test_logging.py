"""What the log says of an exception: what it is and where, never its message or its variables."""

import io
import json
import logging
import sys

import pytest
import structlog

from connector.observability import configure_logging


@pytest.fixture
def _restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.usefixtures("_restored")
def test_an_exception_is_logged_by_type_and_place(form, monkeypatch):
    """The server's own report of a failed request holds no data, takes one line, and is made in no time."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    configure_logging(form)
    learner = {f"learner {number}": "hunter2" for number in range(1000)}
    try:
        _ = {}[f"no such answer of {learner}"]
    except LookupError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    said = written.getvalue()
    assert "learner" not in said
    assert "hunter2" not in said
    assert "KeyError" in said
    assert "test_logging:" in said
    if form == "json":
        assert json.loads(said)["error"] == "KeyError"
