"""The sandbox against steps that misbehave, with a real fork server and the real kernel."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from connector.sandbox.results import SandboxError, StepResult
from connector.sandbox.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox whose server knows the hostile steps."""
    box = Sandbox(
        socket_path=tmp_path_factory.mktemp("box") / "s.sock", preload="tests.support.hostile", output_bytes=1 << 20
    )
    yield box
    box.stop()


def act(sandbox: Sandbox, folder: Path, name: str, *, seconds: float = 20.0, path: str = "") -> StepResult:
    """Run one act in fresh folders below ``folder``."""
    step_dir, out_dir = folder / f"{name}-in", folder / f"{name}-out"
    step_dir.mkdir()
    out_dir.mkdir()
    (step_dir / "step.json").write_text(json.dumps({"act": name, "path": path}), encoding="utf-8")
    return sandbox.run(step_dir, out_dir, seconds=seconds, memory_mb=256)


def test_an_honest_step_yields_its_one_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """A step that only writes its output succeeds under every rung."""
    result = act(sandbox, tmp_path, "write")
    assert result.output.read_bytes() == b"result"
    assert result.rungs == ("namespaces", "landlock", "seccomp", "limits", "no-new-privileges")
    assert result.max_rss_bytes > 0


@pytest.mark.parametrize(
    ("name", "kind", "detail"),
    [
        ("tcp", "violation", "socket (tcp)"),
        ("udp", "violation", "socket (udp)"),
        ("unix", "violation", "socket (unix)"),
        ("catch", "violation", "socket (udp)"),
        ("program", "violation", "start a pro"),
        ("execute", "violation", "start a program (execve)"),
        ("fork", "violation", "start a process"),
        ("kill", "violation", "system call kill"),
        ("link", "violation", "system call symlink"),
        ("allocate", "memory", "allocation refused"),
        ("fill", "memory", "allocation refused"),
        ("large", "output", "a file over the size limit"),
        ("two", "output", "exactly one file"),
        ("nothing", "output", "exactly one file"),
        ("segfault", "crash", "SIGSEGV"),
    ],
)
def test_a_step_that_misbehaves_fails_with_its_reason(
    sandbox: Sandbox, tmp_path: Path, name: str, kind: str, detail: str
) -> None:
    """Each forbidden act ends the step with a reason, and the next step works."""
    with pytest.raises(SandboxError) as caught:
        act(sandbox, tmp_path, name)
    assert caught.value.kind == kind
    assert detail in caught.value.detail
    assert act(sandbox, tmp_path, "write").output.exists()


@pytest.mark.parametrize("name", ["read", "list", "elsewhere"])
def test_a_step_reaches_no_file_but_its_own(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    """Reading a neighbour's snapshot, listing its folder and writing there are refused."""
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    path = tmp_path if name == "list" else tmp_path / "secret"
    with pytest.raises(SandboxError) as caught:
        act(sandbox, tmp_path, name, path=str(path))
    assert (caught.value.kind, caught.value.detail) == ("violation", "file access outside the step")
    assert (tmp_path / "secret").read_text(encoding="utf-8") == "x"


def test_the_code_around_a_package_is_not_readable(sandbox: Sandbox, tmp_path: Path) -> None:
    """The folder a checkout lies in may hold data, so only the packages themselves are open."""
    with pytest.raises(SandboxError, match="file access outside the step"):
        act(sandbox, tmp_path, "read", path=str(Path(__file__).parents[2] / "pyproject.toml"))


@pytest.mark.parametrize(("name", "detail"), [("loop", "limit"), ("sleep", "the wall-clock limit")])
def test_a_step_without_end_is_stopped(sandbox: Sandbox, tmp_path: Path, name: str, detail: str) -> None:
    """A busy and an idle endless step both end at the limit."""
    with pytest.raises(SandboxError) as caught:
        act(sandbox, tmp_path, name, seconds=0.3)
    assert caught.value.kind == "timeout"
    assert detail in caught.value.detail


@pytest.mark.parametrize(("name", "detail"), [("raise", "ValueError"), ("tell", "an error of its own")])
def test_a_failure_says_the_kind_of_error_and_no_data(sandbox: Sandbox, tmp_path: Path, name: str, detail: str) -> None:
    """An exception's message stays inside, since it may name a learner; so does a name made up for the purpose."""
    with pytest.raises(SandboxError) as caught:
        act(sandbox, tmp_path, name)
    assert (caught.value.kind, caught.value.detail) == ("crash", detail)
    assert "4711" not in str(caught.value)


def test_many_steps_at_once_all_get_their_own_answer(sandbox: Sandbox, tmp_path: Path) -> None:
    """Good and bad steps that end in the same moment do not mix up, and the server stays."""
    sandbox.start()
    server = sandbox._server
    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(_outcome, sandbox, tmp_path / str(index), _MIXED[index % 4]) for index in range(64)]
        assert [outcome.result() for outcome in outcomes] == ["ok", "violation", "output", "crash"] * 16
    assert sandbox._server is server


_MIXED = ("write", "udp", "large", "raise")


def _outcome(sandbox: Sandbox, folder: Path, name: str) -> str:
    folder.mkdir()
    try:
        act(sandbox, folder, name)
    except SandboxError as error:
        return error.kind
    return "ok"


def _sleep(sandbox: Sandbox, folder: Path) -> None:
    with pytest.raises(SandboxError):
        act(sandbox, folder, "sleep", seconds=15.0)


def test_steps_run_side_by_side(sandbox: Sandbox, tmp_path: Path) -> None:
    """An endless step does not hold up another client's."""
    slow = threading.Thread(target=_sleep, args=(sandbox, tmp_path))
    slow.start()
    act(sandbox, tmp_path, "write")
    assert slow.is_alive()
    sandbox.stop()
    slow.join()


def test_the_server_inherits_no_environment(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the worker's environment is not in the step's."""
    monkeypatch.setenv("ORCHARD_SECRET", "x")
    sandbox.stop()
    names = json.loads(act(sandbox, tmp_path, "environment").output.read_text(encoding="utf-8"))
    assert "ORCHARD_SECRET" not in names
    assert "OMP_NUM_THREADS" in names


def test_a_killed_server_is_started_again(sandbox: Sandbox, tmp_path: Path) -> None:
    """After kill -9 of the server the next step works."""
    sandbox.start()
    server = sandbox._server
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    assert act(sandbox, tmp_path, "write").output.exists()
    assert server.returncode == -signal.SIGKILL


def test_a_missing_rung_that_is_required_stops_every_step(tmp_path: Path) -> None:
    """A participant that demands a rung this machine lacks runs nothing."""
    box = Sandbox(
        socket_path=tmp_path / "s.sock", preload="tests.support.hostile", require=frozenset({"virtual-machine"})
    )
    with pytest.raises(SandboxError, match="the rung virtual-machine is missing"):
        act(box, tmp_path, "write")
    box.stop()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The last line of the server's own error is in the message."""
    box = Sandbox(socket_path=tmp_path / "s.sock", preload="no.such.module")
    with pytest.raises(SandboxError, match=r"did not start.*No module named 'no'"):
        act(box, tmp_path, "write")
