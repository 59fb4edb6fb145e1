"""The commands that make and check a participant."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from connector.cli import main as cli
from connector.settings import Settings


def orchard(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["orchard", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    return lambda *arguments: orchard(capsys, monkeypatch, *arguments)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _init(run, tmp_path: Path, *more: object) -> tuple[int, str, str]:
    base = ("--name", 'North "Hill" School', "--organisation", "Nörd", "--port", _free_port())
    return run("init", tmp_path / "north", *base, *more)


def test_a_participant_is_made_in_one_step_by_who_owns_the_authority(run, tmp_path: Path) -> None:
    """init, migrate and check-config lead to a participant that is ready to serve."""
    assert run("authority", "init", tmp_path / "space")[0] == 0
    code, out, _ = _init(run, tmp_path, "--authority-dir", tmp_path / "space", "--json")
    assert (code, json.loads(out)["admitted"]) == (0, True)
    code, out, _ = run("check-config", tmp_path / "north")
    assert code == 2
    assert "run orchard migrate" in out
    assert json.loads(run("migrate", tmp_path / "north", "--json")[1])["changed"] is True
    assert run("check-config", tmp_path / "north") == (0, f"{tmp_path / 'north'} is ready to serve.\n", "")
    assert Settings.load(tmp_path / "north", {}).participant.name == 'North "Hill" School'


def test_a_participant_asks_and_is_admitted(run, tmp_path: Path) -> None:
    """Without the authority's key, init leaves a request; admit answers it."""
    run("authority", "init", tmp_path / "space")
    _init(run, tmp_path, "--authority", tmp_path / "space/authority.json")
    north = tmp_path / "north"
    run("migrate", north)
    assert "membership.jwt: cannot be read" in run("check-config", north)[1]
    admit = ("authority", "admit", north / "membership-request.jwt", "--authority", tmp_path / "space")
    code, out, _ = run(*admit, "-o", north / "membership.jwt", "--json")
    assert (code, json.loads(out)["participant_id"]) == (0, Settings.load(north, {}).participant.id)
    assert run("check-config", north)[0] == 0


def test_everything_wrong_is_said_at_once(run, tmp_path: Path) -> None:
    """check-config lists each problem in a sentence of its own and exits with 2."""
    run("authority", "init", tmp_path / "space")
    _init(run, tmp_path, "--authority-dir", tmp_path / "space", "--broker-url", "redis://127.0.0.1:1/0")
    north = tmp_path / "north"
    (north / "operator.token").chmod(0o644)
    (north / "pseudonym.key").unlink()
    (north / "datasets").rmdir()
    settings = Settings.load(north, {})
    with socket.create_server(("127.0.0.1", settings.server.port)):
        code, out, _ = run("check-config", north, "--json")
    problems = json.loads(out)["problems"]
    assert code == 2
    for part in ("orchard migrate", "chmod 600", "pseudonym.key", "datasets: is not a folder", "broker", "is in use"):
        assert [one for one in problems if part in one], part


def test_a_misspelt_key_is_named(run, tmp_path: Path) -> None:
    """A command on a folder with a misspelt key exits 2 with the key, and no traceback."""
    run("authority", "init", tmp_path / "space")
    _init(run, tmp_path, "--authority-dir", tmp_path / "space")
    file = tmp_path / "north/orchard.toml"
    file.write_text(file.read_text().replace("blobs =", "blob ="))
    for command in ("check-config", "migrate", "serve", "worker"):
        code, out, err = run(command, tmp_path / "north")
        assert code == 2
        assert "unknown key 'blob' in [storage]; did you mean 'blobs'?" in out + err
        assert "Traceback" not in err


def test_nothing_is_overwritten(run, tmp_path: Path) -> None:
    """A second init or authority init in the same folder is refused and keeps the keys."""
    run("authority", "init", tmp_path / "space")
    key = (tmp_path / "space/authority.key").read_bytes()
    assert run("authority", "init", tmp_path / "space")[0] == 2
    assert (tmp_path / "space/authority.key").read_bytes() == key
    _init(run, tmp_path, "--authority-dir", tmp_path / "space")
    code, _, err = _init(run, tmp_path, "--authority-dir", tmp_path / "space")
    assert (code, "this folder is a participant" in err) == (2, True)


def test_a_worker_needs_a_broker_and_known_queues(run, tmp_path: Path) -> None:
    """Without a broker, or with a queue that does not exist, worker says so in one sentence."""
    run("authority", "init", tmp_path / "space")
    _init(run, tmp_path, "--authority-dir", tmp_path / "space")
    assert "[broker] url is empty" in run("worker", tmp_path / "north")[2]
    assert "no such queue: trains" in run("worker", tmp_path / "north", "--queues", "trains")[2]


def test_a_folder_that_is_none_says_how_to_make_one(run, tmp_path: Path) -> None:
    """Every command on a missing folder answers with the command that makes it."""
    code, _, err = run("serve", tmp_path / "nowhere")
    assert (code, "orchard init" in err) == (2, True)


def test_help_loads_nothing_heavy() -> None:
    """`orchard --help` imports neither the web framework nor the database nor torch."""
    code = (
        "import sys; sys.argv = ['orchard', '--help']\n"
        "from connector.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'fastapi', 'sqlalchemy', 'celery', 'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
