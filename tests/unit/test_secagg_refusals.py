"""The list of mandatory refusals is complete: each line of the room's table names a code that exists and a test that runs."""

import re
from pathlib import Path

import pytest

import learning.secagg
from learning.secagg.errors import SecureAggregationError

ROOT = Path(__file__).parents[2]
README = Path(str(learning.secagg.__file__)).with_name("README.md").read_text(encoding="utf-8")
SECTION = README.partition("## What must be refused")[2].partition("\n## ")[0]
LINES = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in SECTION.splitlines() if "::" in row]
REQUIRED = (
    "unsigned plan",
    "expired manifest",
    "consent withdrawn",
    "contract mismatch",
    "H(model) mismatch",
    "n_min",
    "organisation",
    "not recomputable",
    "second plan",
    "seed commitment",
    "quorum",
    "second set",
    "second release",
    "privacy budget",
    "wrap guard",
    "CSPRNG",
    "keys used twice",
    "seats lost",
)


def codes() -> set[str]:
    """Return every stable code of the room."""
    found, queue = set(), [SecureAggregationError]
    while queue:
        error = queue.pop()
        found.add(error.code)
        queue.extend(error.__subclasses__())
    return found


@pytest.mark.parametrize("line", REQUIRED)
def test_every_required_refusal_has_a_line(line):
    """The list of the reference, in its order."""
    assert any(line in refused for refused, _, _ in LINES)


@pytest.mark.parametrize(("refused", "code", "test"), LINES, ids=[line[0] for line in LINES])
def test_every_line_names_a_code_and_a_test(refused, code, test):
    """Nothing in the table is a promise."""
    file, _, name = test.strip("`").partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), refused
    if code.startswith("`secagg"):
        assert code.strip("`") in codes()
    elif code.startswith("`"):
        rooms = (ROOT / "learning").rglob("*.py")
        assert any(f'"{code.strip("`")}"' in source.read_text(encoding="utf-8") for source in rooms)
