"""The rules of the house that a program can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("policies", "contracts", "learning")
CODE = ("connector", *ROOMS)
# Where numpy's generators may be used: initial weights, published train/test splits and made-up data. Never for masks,
# noise or tokens.
SEEDED = ("learning/models.py", "learning/splits.py", "connector/demo/")
# The clock of the process is read here and passed on.
CLOCKS = ("connector/foundation.py", "connector/wiring", "connector/cli/", "connector/demo/")
BANNED_NAMES = {"utils.py", "common.py", "helpers.py", "manager.py", "base.py"}


def _files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _chains(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the dotted names that a file uses, with their lines."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _uses(files: Iterator[Path], *wanted: str, allowed: tuple[str, ...] = ()) -> list[str]:
    found = []
    for file in files:
        if _name(file).startswith(allowed or ("\0",)):
            continue
        for line, chain in _chains(file):
            if any(chain == one or chain.startswith(one + ".") for one in wanted):
                found.append(f"{_name(file)}:{line}: {chain}")
    return found


def _imports(*modules: str) -> list[str]:
    found = []
    for file in _files(*CODE):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            found += [f"{_name(file)}:{node.lineno}: {name}" for name in names if name.partition(".")[0] in modules]
    return found


def test_imports_keep_to_their_rooms() -> None:
    """import-linter's contracts hold."""
    ended = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_api_process_never_loads_torch() -> None:
    """Loading everything that ``orchard serve`` loads brings neither torch nor what only workers need."""
    code = (
        "import sys, uvicorn, connector.app, connector.wiring, connector.checks, connector.observability\n"
        "print(sorted({'torch', 'pyarrow', 'duckdb', 'celery', 'pyld', 'alembic'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_files_are_short_and_named_for_what_they_hold() -> None:
    """No file has more than 500 lines, and none is called utils, common, helpers, manager or base."""
    long = {
        _name(file): lines for file in _files(*CODE, "tests") if (lines := len(file.read_text().splitlines())) > 500
    }
    assert long == {}
    assert [_name(file) for file in _files(*CODE) if file.name in BANNED_NAMES] == []


def test_no_generator_but_the_systems_makes_secrets() -> None:
    """Numpy's generators draw only initial weights, splits and made-up data; ``random`` nowhere."""
    numpy = _uses(_files(*CODE), "np.random", "numpy.random", allowed=SEEDED)
    torch = _uses(_files(*ROOMS), "torch.rand", "torch.randn", "torch.random", allowed=("learning/training/",))
    assert numpy + torch + _imports("random", "pickle") == []


def test_rooms_are_told_the_time() -> None:
    """No room reads a clock; in the process only the wiring and the command line do."""
    clocks = ("datetime.now", "datetime.datetime.now", "datetime.utcnow", "date.today", "time.time")
    assert _uses(_files(*CODE), *clocks, allowed=CLOCKS) == []


def test_the_environment_has_one_reader() -> None:
    """``os.environ`` is read by the settings alone, and handed on to the demo's processes."""
    wanted = ("os.environ", "os.getenv", "os.putenv")
    assert _uses(_files(*CODE), *wanted, allowed=("connector/settings.py", "connector/demo/processes.py")) == []


def test_rooms_have_a_readme() -> None:
    """Each room says what it is."""
    assert [room for room in CODE if not (ROOT / room / "README.md").exists()] == []


def test_nothing_is_left_for_later() -> None:
    """Code and tests hold no unfinished mark, and no test is skipped or expected to fail."""
    marks = ("TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error", "pragma: no " + "cover")
    skips = ("pytest." + "skip", "mark." + "skip", "mark." + "xfail", "pytest.import" + "orskip", "assert " + "True")
    found = [
        f"{_name(file)}: {mark}"
        for file in _files(*CODE, "tests")
        for mark in (*marks, *skips)
        if mark in file.read_text(encoding="utf-8")
    ]
    assert found == []


@pytest.mark.parametrize("file", [*_files("tests")], ids=_name)
def test_every_test_says_what_it_shows(file: Path) -> None:
    """A test's docstring is one sentence about behaviour."""
    bare = [
        f"{_name(file)}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert bare == []
