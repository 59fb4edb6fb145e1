"""Bad input before anything runs: one sentence that says whose fault it is and what to do, and nothing left behind."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.participants import enrol
from tests.support.processes import ORCHARD, free_port, leftovers
from tests.support.schools import HEADER, small_schools

pytestmark = pytest.mark.e2e


def refused(folder: Path, *arguments: str | Path) -> str:
    """Run ``orchard`` in ``folder``; it must end with status 2 and one sentence, which is returned."""
    done = subprocess.run(
        [ORCHARD, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (sentence,) = done.stderr.splitlines()
    return sentence


def _nothing(_data: Path) -> None:
    return


def _without_a_column(data: Path) -> None:
    lines = (data / "fir.csv").read_text().splitlines()
    (data / "fir.csv").write_text("\n".join(line.rsplit(",", 2)[0] + "," + line.rsplit(",", 1)[1] for line in lines))


def _without_learners(data: Path) -> None:
    (data / "fir.csv").write_text(HEADER + "\n")


def _without_a_file(data: Path) -> None:
    (data / "fir.csv").unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (_nothing, ["--data", "nowhere"], "there is no folder"),
        (_nothing, ["--data", "data", "--set", "colour=red"], "view small-schools has no parameter colour"),
        (_without_a_column, ["--data", "data"], "school fir: column score is not in"),
        (_without_learners, ["--data", "data"], "School fir: "),
        (_without_a_file, ["--data", "data"], "school fir: "),
    ],
    ids=["folder", "parameter", "column", "empty", "file"],
)
def test_data_that_cannot_be_used(
    tmp_path: Path, spoil: Callable[[Path], None], options: list[str], words: str
) -> None:
    """A demo over data that cannot be used names the school and the fault, starts nothing and writes no result."""
    spoil(small_schools(tmp_path / "data"))
    assert words in refused(tmp_path, "demo", *options, "--folder", "space", "--out", "out")
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "out").exists()


def test_a_port_in_use(tmp_path: Path) -> None:
    """A demo whose first port is taken says so before it starts anything."""
    small_schools(tmp_path / "data")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(tmp_path, "demo", "--data", "data", "--folder", "space", "--base-port", str(port))
    assert f"port {port} is in use by another program on this machine; choose another --base-port" in said
    assert leftovers(tmp_path) == []


def test_an_output_folder_that_is_somebody_elses(tmp_path: Path) -> None:
    """A demo does not touch a folder that is no earlier output, and says so before it trains."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert "is not an earlier output" in refused(tmp_path, "demo", "--folder", "space", "--out", "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "check-config"])
def test_a_misspelt_key(tmp_path: Path, command: str) -> None:
    """A key that does not exist is named with its line and the nearest one that does."""
    settings = enrol(tmp_path / "north", tmp_path / "space", name="north", port=free_port())
    settings.file.write_text(settings.file.read_text().replace("public_url =", "publik_url ="))
    done = subprocess.run([ORCHARD, command, settings.folder], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "unknown key 'publik_url' in [server]; did you mean 'public_url'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_down(tmp_path: Path) -> None:
    """A worker does not start without its broker; it names the broker's place, and never its password."""
    settings = enrol(tmp_path / "north", tmp_path / "space", name="north", port=free_port())
    port = free_port()
    broker = f'url = "redis://north:secret@127.0.0.1:{port}/0"'
    settings.file.write_text(settings.file.read_text().replace('url = ""', broker))
    said = refused(tmp_path, "worker", settings.folder)
    assert f"the broker at 127.0.0.1:{port} does not answer; start it, or change [broker] url" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["job", "list", "north"],
            "cannot be reached; is that participant running?; start it with: orchard serve north",
        ),
        (["job", "start", "north", "plan.json"], "plan.json: cannot be read"),
        (["job", "list", "nobody"], "make a participant with: orchard init"),
        (["consent", "import", "north", "list.csv", "--dataset", "answers"], "list.csv: cannot be read"),
    ],
)
def test_commands_that_cannot_go_on(tmp_path: Path, arguments: list[str], words: str) -> None:
    """A command whose participant, file or API is not there says which and what to do."""
    enrol(tmp_path / "north", tmp_path / "space", name="north", port=free_port())
    assert words in refused(tmp_path, *arguments)
