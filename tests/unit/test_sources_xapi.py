"""xAPI statements as responses, from files and from a record store that pages."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from connector.sources.opened import open_source
from connector.sources.snapshot import build_snapshot
from connector.sources.source import Location, SourceError
from learning.views import FeatureView, parse_view

BASE = "https://lrs.example.org/xapi"
ANSWERED = "http://adlnet.gov/expapi/verbs/answered"
VOIDED = "http://adlnet.gov/expapi/verbs/voided"


def view_of(*, files: str | None, **statements: Any) -> FeatureView:
    """A view of responses over statements."""
    statements = {"skill_prefix": "https://s/", **({"files": files} if files else {}), **statements}
    return parse_view(
        {
            "name": "answers",
            "shape": "responses",
            "subject": "subject",
            "source": {"kind": "xapi", "statements": statements},
            "responses": {"vocabulary": ["add", "sub"]},
        }
    )


def answer(
    number: int, who: str, *, success: bool = True, minute: int = 0, skills: tuple[str, ...] = ("add",)
) -> dict[str, Any]:
    """One statement."""
    return {
        "id": f"id-{number}",
        "actor": {"account": {"homePage": "https://school", "name": who}, "mbox": "mailto:x@example.org"},
        "verb": {"id": ANSWERED},
        "object": {"id": "https://items/1"},
        "result": {"success": success},
        "context": {"contextActivities": {"grouping": [{"id": f"https://s/{skill}"} for skill in skills]}},
        "timestamp": f"2026-01-12T08:{minute:02d}:00+01:00",
    }


def voiding(number: int, target: int) -> dict[str, Any]:
    """A statement that voids another."""
    reference = {"objectType": "StatementRef", "id": f"id-{target}"}
    return {"id": f"id-{number}", "actor": {"mbox": "mailto:a@b"}, "verb": {"id": VOIDED}, "object": reference}


class Store:
    """A record store with pages of two, which may misbehave."""

    def __init__(self, statements: list[dict[str, Any]], more: str = "/xapi/more?from={}") -> None:
        """Hold the statements."""
        self.statements, self.more = statements, more
        self.headers: list[Mapping[str, str]] = []

    def fetch(self, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Answer a GET."""
        self.headers.append(headers)
        start = int(url.partition("from=")[2] or 0)
        page: dict[str, Any] = {"statements": self.statements[start : start + 2]}
        if start + 2 < len(self.statements):
            page["more"] = self.more.format(start + 2)
        return page


def write(folder: Path, statements: list[Any]) -> Location:
    """Write a .jsonl file and return its place."""
    (folder / "a.jsonl").write_text(
        "\n".join(json.dumps(statement) for statement in statements) + "\n", encoding="utf-8"
    )
    return Location(folder=folder)


def test_answers_become_ordered_sequences(tmp_path: Path) -> None:
    """Learners are laid one after another, their answers by time, skills flat with offsets."""
    place = write(
        tmp_path,
        [
            answer(1, "b", minute=5, success=False),
            answer(2, "a", minute=1, skills=("sub", "add")),
            answer(3, "b", minute=2, skills=("sub",)),
        ],
    )
    out = tmp_path / "data.safetensors"
    facts = build_snapshot(open_source(view_of(files="*.jsonl"), place), None, str, out)
    arrays = load_file(out)
    assert arrays["offsets"].tolist() == [0, 1, 3]
    assert arrays["skills"].tolist() == [1, 0, 1, 0]
    assert arrays["skill_offsets"].tolist() == [0, 2, 3, 4]
    assert arrays["correct"].tolist() == [1, 1, 0]
    assert (facts.rows, facts.subjects) == (3, 2)
    assert {name: str(array.dtype) for name, array in arrays.items()} == {
        "offsets": "int64", "skills": "int32", "skill_offsets": "int64", "correct": "uint8", "split": "uint8",
    }  # fmt: skip


def test_a_voided_statement_does_not_count_wherever_the_voiding_stands(tmp_path: Path) -> None:
    """Before or after its target, a voiding statement takes it out."""
    place = write(
        tmp_path, [voiding(9, 2), answer(1, "a"), answer(2, "a", minute=1), answer(3, "a", minute=2), voiding(8, 3)]
    )
    table = open_source(view_of(files="*.jsonl"), place).read(None, str)
    assert (table.data.num_rows, table.rows_read) == (1, 1)


def test_a_store_is_followed_page_by_page() -> None:
    """All pages are read, with the version header and the credential, and only allowed subjects are kept."""
    store = Store([answer(number, who, minute=number) for number, who in enumerate("abcab")])
    place = Location(connection=BASE, fetch=store.fetch, credential=("user", "pass"))
    table = open_source(view_of(files=None), place).read(frozenset({"a"}), str)
    assert table.data.column("subject").to_pylist() == ["a", "a"]
    assert len(store.headers) == 3
    assert store.headers[0]["X-Experience-API-Version"] == "1.0.3"
    assert base64.b64decode(store.headers[0]["Authorization"].removeprefix("Basic ")) == b"user:pass"


@pytest.mark.parametrize("more", ["https://elsewhere.example.org/?from={}", "/xapi/more?from=0"])
def test_a_next_page_elsewhere_or_again_is_refused(more: str) -> None:
    """A store cannot send us, with our credential, to another host or round in circles."""
    store = Store([answer(number, "a") for number in range(5)], more)
    with pytest.raises(SourceError, match="not its own") as caught:
        open_source(view_of(files=None), Location(connection=BASE, fetch=store.fetch)).read(None, str)
    assert caught.value.whose == "world"


def test_a_store_that_is_down_is_the_worlds_fault() -> None:
    """The message says who to ask and nothing of the address."""

    def fetch(_url: str, _headers: Mapping[str, str]) -> dict[str, Any]:
        raise TimeoutError("https://user:secret@lrs")

    with pytest.raises(SourceError, match="does not answer") as caught:
        open_source(view_of(files=None), Location(connection=BASE, fetch=fetch)).read(None, str)
    assert (caught.value.code, caught.value.whose) == ("source-unreachable", "world")
    assert "secret" not in str(caught.value)


def test_skills_may_stand_in_an_extension(tmp_path: Path) -> None:
    """A store that names skills in a context extension is mapped by the view alone."""
    statement = answer(1, "a") | {"context": {"extensions": {"https://x/skills": ["sub", "add"]}}}
    view = view_of(files="*.jsonl", skills="extension", extension="https://x/skills")
    table = open_source(view, write(tmp_path, [statement])).read(None, str)
    assert table.data.column("skills").to_pylist() == ["sub|add"]


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("not an object", "line 2: it is not a JSON object"),
        ({**answer(2, "a"), "actor": {}}, "line 2: the statement's actor has no account"),
        ({**answer(2, "a"), "result": {}}, "line 2: an answer needs object.id and result.success"),
        ({**answer(2, "a"), "timestamp": "Monday"}, "line 2: the timestamp"),
    ],
)
def test_a_malformed_statement_is_found_by_its_line(tmp_path: Path, statement: Any, message: str) -> None:
    """File and line are named."""
    with pytest.raises(SourceError, match=message):
        open_source(view_of(files="*.jsonl"), write(tmp_path, [answer(1, "a"), statement])).read(None, str)


def test_a_skill_that_the_view_does_not_list_is_counted(tmp_path: Path) -> None:
    """The message says how many, not which."""
    source = open_source(view_of(files="*.jsonl"), write(tmp_path, [answer(1, "a", skills=("mul",))]))
    with pytest.raises(SourceError, match="1 skills are not in the view's vocabulary"):
        build_snapshot(source, None, str, tmp_path / "out")


def test_a_withdrawal_moves_nobody_to_another_fold(tmp_path: Path) -> None:
    """Folds are dealt over all subjects, so the rest keep their places when one leaves."""
    document = view_of(files="*.jsonl").model_dump(mode="json") | {"split": {"by": "fold", "folds": 3}}
    people = [f"p{number}" for number in range(9)]
    place = write(tmp_path, [answer(index, who) for index, who in enumerate(people)])
    source = open_source(parse_view(document), place)
    build_snapshot(source, None, str, tmp_path / "all")
    build_snapshot(source, frozenset(people[:4] + people[5:]), str, tmp_path / "rest")
    everybody, rest = (load_file(tmp_path / name)["split"].tolist() for name in ("all", "rest"))
    assert everybody[:4] + everybody[5:] == rest
