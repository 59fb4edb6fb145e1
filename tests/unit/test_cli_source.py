"""`orchard source test`: what an operator sees before offering a dataset."""

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from connector.cli.source import app
from connector.demo.generator import SCHOOLS, generate


def invoke(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["test", *arguments])


def test_it_shows_what_is_there_and_stores_nothing(tmp_path: Path) -> None:
    """Rows, subjects, columns and split are printed; the folder holds what it held."""
    generate(tmp_path, schools=SCHOOLS[2:])
    before = sorted(tmp_path.rglob("*"))
    result = invoke("synthetic-xapi", "--data", str(tmp_path), "--set", "school=cedar")
    assert result.exit_code == 0
    assert "of 30 subjects" in result.output
    assert "skills" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_json_holds_the_same(tmp_path: Path) -> None:
    """A program can read it."""
    generate(tmp_path, schools=SCHOOLS[2:])
    result = invoke("synthetic-xapi", "--data", str(tmp_path), "--set", "school=cedar", "--json")
    found = json.loads(result.output)
    assert (found["ok"], found["subjects"], found["problem"]) == (True, 30, None)
    assert found["output"]["skills"] == 16


def test_a_problem_is_one_sentence_and_exit_status_1(tmp_path: Path) -> None:
    """A missing school, a misspelt parameter and a missing view each say what to do."""
    generate(tmp_path, schools=SCHOOLS[2:])
    missing = invoke("synthetic-xapi", "--data", str(tmp_path), "--set", "school=elm")
    assert (missing.exit_code, "no file elm/*.jsonl" in missing.output) == (1, True)
    misspelt = invoke("synthetic-xapi", "--data", str(tmp_path), "--set", "scool=elm")
    assert "did you mean school?" in misspelt.output
    unknown = invoke("no-such-view", "--json")
    assert json.loads(unknown.output)["problem"] == "there is no view file no-such-view"
