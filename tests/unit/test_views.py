"""Feature views as values: what is accepted, what is refused, and what names them."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from connector.sources.providers import bundled_views, load_view
from learning.views import (
    FeatureView,
    ViewError,
    bind_parameters,
    output_columns,
    output_digest,
    output_spec,
    parse_view,
    view_digest,
)

OUTCOMES: dict[str, Any] = {
    "name": "marks",
    "shape": "outcomes",
    "subject": "pupil",
    "parameters": {"school": {"about": "which school"}},
    "source": {"kind": "csv", "tables": {"marks": {"files": "$school.csv"}}},
    "features": [
        {"column": "age", "scale": "z-score"},
        {"column": "town", "type": "category", "values": ["a", "b", "c"], "drop_first": True, "other": True},
        {"column": "late", "type": "boolean"},
    ],
    "label": {"name": "fails", "expression": "mark < 10"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return the view above with some top-level members replaced."""
    return copy.deepcopy(OUTCOMES) | changes


@pytest.mark.parametrize("path", bundled_views(), ids=lambda path: path.stem)
def test_each_bundled_view_is_valid_and_named_after_its_file(path: Path) -> None:
    """The view files that we ship parse, and their names are their files' names."""
    assert load_view(path).name == path.stem


def test_output_columns_follow_the_features() -> None:
    """Categories become one indicator a value, without the first and with one for the rest where the view says so."""
    names = [column.name for column in output_columns(parse_view(OUTCOMES))]
    assert names == ["age", "town=b", "town=c", "town=other", "late"]


def test_two_sources_with_one_output_can_train_one_model() -> None:
    """The source does not count in the output's digest, but it does in the view's."""
    here = parse_view(OUTCOMES)
    source = {"kind": "sql", "query": "select * from marks where school = $school"}
    there = parse_view(changed(source=source))
    assert output_digest(here) == output_digest(there)
    assert view_digest(here) != view_digest(there)


def test_the_digest_is_of_the_meaning() -> None:
    """A title, a demo folder and a default written out change nothing; another scale does."""
    view = parse_view(OUTCOMES)
    told = changed(title="Marks", demo={"folder": "x"}, split={"by": "hash"})
    assert view_digest(parse_view(told)) == view_digest(view)
    other = changed(features=[{"column": "age", "scale": "min-max"}])
    assert view_digest(parse_view(other)) != view_digest(view)


def test_the_output_says_nothing_of_the_source() -> None:
    """What a peer sees holds neither files nor queries nor parameters."""
    assert "$" not in str(output_spec(parse_view(OUTCOMES)))
    assert set(output_spec(parse_view(OUTCOMES))) == {"shape", "inputs", "columns", "label"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fetures": []}, r"fetures: unknown key \(did you mean features\?\)"),
        ({"source": {"kind": "csv", "tables": {"m": {"files": "$school", "seperator": ";"}}}}, "unknown key"),
        ({"shape": "responses"}, "a view of responses has"),
        ({"label": None}, "a view of outcomes has"),
        ({"parameters": {}}, r"\$school is used but not declared"),
        ({"features": [{"column": "a", "type": "category"}]}, "values are given for a category"),
        ({"features": [{"column": "a"}, {"column": "a"}]}, "listed twice"),
        ({"split": {"by": "hash", "train": 0.9, "valid": 0.2}}, "leave nothing to test"),
        ({"source": {"kind": "sql"}}, "an sql source needs a query"),
        ({"source": {"kind": "xapi"}}, "needs .source.statements."),
        ({"subject": "pupil; drop"}, "subject: "),
        ({"name": "Marks"}, "name: "),
    ],
)
def test_a_wrong_view_is_refused_with_the_place(changes: dict[str, Any], message: str) -> None:
    """Each mistake is named by its place in the file."""
    with pytest.raises(ViewError, match=message):
        parse_view(changed(**changes))


def test_a_refusal_repeats_no_value_of_the_file() -> None:
    """Whatever stands in a view is not echoed: it could be a secret in the wrong place."""
    with pytest.raises(ViewError) as caught:
        parse_view(changed(time={"password": "hunter2"}))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs a value for the parameter school \(which school\)"),
        ({"school": "a", "scool": "b"}, r"no parameter scool \(did you mean school\?\)"),
        ({"school": "../other"}, "may hold letters"),
        ({"school": "a' or 'a'='a"}, "may hold letters"),
    ],
)
def test_wrong_parameters_are_refused(given: dict[str, str], message: str) -> None:
    """A parameter cannot be left out, invented, or leave its folder."""
    with pytest.raises(ViewError, match=message):
        bind_parameters(parse_view(OUTCOMES), given)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    """The message has the file's name and the line."""
    path = tmp_path / "broken.toml"
    path.write_text("name = \n", encoding="utf-8")
    with pytest.raises(ViewError, match=r"broken\.toml is not TOML: .*line 1"):
        load_view(path)


def test_views_are_values() -> None:
    """The same file gives equal, frozen views."""
    text = bundled_views()[0].read_text(encoding="utf-8")
    view: FeatureView = parse_view(tomllib.loads(text))
    assert view == parse_view(tomllib.loads(text))
    with pytest.raises(ValueError, match="frozen"):
        view.name = "other"
