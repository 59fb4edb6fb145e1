"""One piece of learning work: leased, done once, given back, given up."""

import contextlib
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from learning import tasks
from learning.errors import StepFailedError
from learning.node import Later, Node
from learning.secagg.errors import ManifestError

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TASK, KEY = "learning.close_round", "urn:uuid:1|1|1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeLease:
    task: str
    key: str
    tries: int


@dataclasses.dataclass
class FakeBook:
    """A work book with one piece of work, begun ``tries`` times by now."""

    tries: int = 1
    due_again: bool = False
    free: bool = True
    log: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)

    def take(self, task: str, key: str, owner: str, token: str, now: datetime) -> FakeLease | None:
        return FakeLease(task=task, key=key, tries=self.tries) if self.free else None

    def done(self, lease: Any) -> bool:
        self.log.append(("done",))
        return self.due_again

    def later(self, lease: Any, due_at: datetime, error: str | None, *, fresh: bool = False) -> None:
        self.log.append(("later", (due_at - NOW).total_seconds(), error, fresh))


@dataclasses.dataclass
class Run:
    """What happened around one call of ``run_task``."""

    book: FakeBook
    rung: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    told: list[str] = dataclasses.field(default_factory=list)
    gave_up: list[str] = dataclasses.field(default_factory=list)
    held: int = 0


@dataclasses.dataclass(frozen=True)
class _Clock:
    def now(self) -> datetime:
        return NOW


def run(monkeypatch: pytest.MonkeyPatch, book: FakeBook, answer: object) -> Run:
    """Do one piece of work whose handler returns or raises ``answer``."""
    result = Run(book)

    def handler(_node: Node, _key: str) -> Later | None:
        if isinstance(answer, Exception):
            raise answer
        return cast("Later | None", answer)

    @contextlib.contextmanager
    def held(_lease: object) -> Iterator[None]:
        result.held += 1
        yield

    task = tasks.Task(queue="control", handler=handler, give_up=lambda _node, _key, error: result.gave_up.append(error))
    monkeypatch.setattr(tasks, "TASKS", {TASK: task})
    tasks.run_task(
        cast("Node", _Clock()),
        book,
        held,
        lambda name, key: result.rung.append((name, key)),
        lambda _task, _key, error: result.told.append(type(error).__name__),
        "w1",
        TASK,
        KEY,
    )
    return result


def test_finished_work_is_struck_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is held while the work runs, and the row is gone afterwards."""
    result = run(monkeypatch, FakeBook(), None)
    assert (result.held, result.book.log, result.rung) == (1, [("done",)], [])


def test_work_that_became_due_meanwhile_rings_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doorbell is rung once more when news came while the work ran."""
    assert run(monkeypatch, FakeBook(due_again=True), None).rung == [(TASK, KEY)]


def test_work_that_is_not_due_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doubled doorbell finds nothing to lease and does nothing."""
    result = run(monkeypatch, FakeBook(free=False), ValueError("never raised"))
    assert (result.held, result.book.log, result.told) == (0, [], [])


def test_waiting_forgets_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer 'later' is no failure."""
    answer = Later(due_at=NOW + timedelta(seconds=7))
    assert run(monkeypatch, FakeBook(tries=3), answer).book.log == [("later", 7.0, None, True)]


@pytest.mark.parametrize(("tries", "pause"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0)])
def test_a_failure_is_tried_again_more_slowly(monkeypatch: pytest.MonkeyPatch, tries: int, pause: float) -> None:
    """The row keeps the kind of error and nothing of its text, which might hold data."""
    result = run(monkeypatch, FakeBook(tries=tries), ValueError("row 17 of learner 4711"))
    assert result.book.log == [("later", pause, "ValueError", False)]
    assert (result.told, result.gave_up) == (["ValueError"], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("row 17 of learner 4711"), "ValueError"),
        (StepFailedError("unavailable", "the sandbox is not there"), "the sandbox is not there"),
        (ManifestError("the manifest has expired", sender="did:web:ai"), "did:web:ai: the manifest has expired"),
    ],
)
def test_the_fifth_failure_is_the_last(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    """Attempts are capped; the reason is this room's own sentence, or only the kind of a stranger's error."""
    result = run(monkeypatch, FakeBook(tries=5), error)
    assert (result.gave_up, result.book.log) == ([reason], [("done",)])


def test_work_that_takes_its_worker_down_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that five workers began and none finished is not begun a sixth time."""
    result = run(monkeypatch, FakeBook(tries=6), ValueError("never raised"))
    assert result.gave_up == ["the worker went away each time this was tried"]
    assert (result.held, result.book.log) == (0, [("done",)])


def test_every_task_has_a_queue_that_workers_listen_to() -> None:
    """Names are fixed strings below ``learning.``; queues are the worker's three."""
    assert {task.queue for task in tasks.TASKS.values()} == {"control", "train", "aggregate"}
    assert all(name.startswith("learning.") for name in tasks.TASKS)
    assert tasks.TASKS["learning.contribute"].queue == "train"


def test_registered_tasks_hand_on_their_name_and_key() -> None:
    """Each Celery task does the work of its own name, whatever was registered after it."""
    registered: dict[str, Any] = {}
    options: list[dict[str, Any]] = []

    class App:
        def task(self, body: Any, *, name: str, **given: Any) -> None:
            registered[name] = body
            options.append(given)

    done: list[tuple[str, str]] = []
    tasks.register(App(), lambda task, key: done.append((task, key)))
    for name, body in registered.items():
        body(f"key of {name}")
    assert done == [(name, f"key of {name}") for name in tasks.TASKS]
    assert all(given == {"ignore_result": True, "acks_late": True, "reject_on_worker_lost": True} for given in options)
