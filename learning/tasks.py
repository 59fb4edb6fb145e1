"""The learning room's Celery tasks: a message carries a task name and a key; the database says what is due.

A task leases its work, does one idempotent step, and strikes it off, or gives it back for later. A lost or doubled
message is harmless: whoever finds nothing due does nothing. Attempts are capped; then a named terminal state.
"""

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from learning import (
    aggregate,
    announce,
    collect,
    contribute,
    deliver,
    ending,
    finish,
    provide,
    recruit,
    sketches,
    uploads,
)
from learning.errors import LearningError
from learning.node import Later, Node
from learning.secagg.errors import SecureAggregationError

Handler = Callable[[Node, str], Later | None]
GiveUp = Callable[[Node, str, str], None]
MAX_TRIES = 5


class Lease(Protocol):
    """A piece of work that this process holds."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def key(self) -> str:
        """What it is about."""
        ...

    @property
    def tries(self) -> int:
        """How often it was begun."""
        ...


class Book(Protocol):
    """Leases on due work."""

    def take(self, task: str, key: str, owner: str, token: str, now: datetime) -> Any:
        """Lease one piece of work when it is due and nobody holds it."""
        ...

    def done(self, lease: Any) -> bool:
        """Strike off finished work; True when it must run once more."""
        ...

    def later(self, lease: Any, due_at: datetime, error: str | None, *, fresh: bool = False) -> bool:
        """Give work back; True when it was made due meanwhile."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of work: its queue, what does it, and what to do when it keeps failing."""

    queue: str
    handler: Handler
    give_up: GiveUp


def _leave(node: Node, key: str, error: str) -> None:
    provide.stop(node, key.split("|", maxsplit=1)[0], f"our own step failed: {error}")


def _nothing(_node: Node, _key: str, _error: str) -> None:
    """The work row keeps the error; deadlines at the collector end what waits for it."""


TASKS: Mapping[str, Task] = {
    "learning.recruit": Task(queue="control", handler=recruit.recruit, give_up=finish.give_up),
    "learning.dismiss": Task(queue="control", handler=ending.dismiss, give_up=_nothing),
    "learning.check_cohort": Task(queue="control", handler=provide.check_cohort, give_up=_leave),
    "learning.expire": Task(queue="control", handler=provide.expire, give_up=_leave),
    "learning.open_round": Task(queue="control", handler=announce.open_round, give_up=finish.give_up),
    "learning.close_round": Task(queue="control", handler=collect.close_round, give_up=finish.give_up),
    "learning.finish_round": Task(queue="aggregate", handler=finish.finish_round, give_up=finish.give_up),
    "learning.report": Task(queue="control", handler=finish.report, give_up=finish.give_up),
    "learning.contribute": Task(queue="train", handler=contribute.contribute, give_up=deliver.give_up),
    "learning.deliver": Task(queue="control", handler=deliver.deliver, give_up=deliver.give_up),
    "learning.report_failure": Task(queue="control", handler=deliver.report_failure, give_up=_nothing),
    "learning.copy": Task(queue="aggregate", handler=uploads.copy_on, give_up=_nothing),
    "learning.answer_challenge": Task(queue="aggregate", handler=sketches.answer_challenge, give_up=_nothing),
    "learning.check_share": Task(queue="aggregate", handler=sketches.check_share, give_up=_nothing),
    "learning.release": Task(queue="aggregate", handler=aggregate.release_share, give_up=_nothing),
}


def run_task(
    node: Node,
    book: Book,
    held: Callable[[Any], Any],
    ring: Callable[[str, str], None],
    report_error: Callable[[str, str, Exception], None],
    owner: str,
    task: str,
    key: str,
) -> None:
    """Do one piece of due work.

    Args:
        node: this participant.
        book: leases.
        held: a context manager factory that keeps a lease renewed while work runs.
        ring: the doorbell, for work that became due again meanwhile.
        report_error: told of an unexpected failure (task, key, error).
        owner: this worker's name.
        task: the task's name.
        key: what it is about.
    """
    kind = TASKS[task]
    lease = book.take(task, key, owner, secrets.token_hex(16), node.now())
    if lease is None:
        return
    if lease.tries > MAX_TRIES:
        # Every earlier try took its worker down with it, or lost its lease: no exception ever told us.
        kind.give_up(node, key, "the worker went away each time this was tried")
        book.done(lease)
        return
    try:
        with held(lease):
            answer = kind.handler(node, key)
    except Exception as error:  # noqa: BLE001 - whatever it was, the row must say so and the attempt must count
        report_error(task, key, error)
        if lease.tries >= MAX_TRIES:
            kind.give_up(node, key, _told(error))
            book.done(lease)
        else:
            book.later(lease, node.now() + timedelta(seconds=0.5 * 2**lease.tries), type(error).__name__)
        return
    again = book.later(lease, answer.due_at, None, fresh=True) if isinstance(answer, Later) else book.done(lease)
    if again:
        ring(task, key)


def _told(error: Exception) -> str:
    # Only this room's own sentences are known to hold no data.
    return str(error) if isinstance(error, LearningError | SecureAggregationError) else type(error).__name__


def register(app: Any, perform: Callable[[str, str], None]) -> None:
    """Register every task on a Celery app; ``perform(task, key)`` does the work."""
    for name in TASKS:

        def body(key: str, *, task: str = name) -> None:
            perform(task, key)

        app.task(body, name=name, ignore_result=True, acks_late=True, reject_on_worker_lost=True)
