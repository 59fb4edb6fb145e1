"""The composition root of a worker process: the rooms, with a sandbox to train in, behind the learning tasks."""

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from connector.doorbell import Doorbell
from connector.drivers.leases import LeaseKeeper
from connector.drivers.outbox import SilentDoorbell
from connector.foundation import lay_foundation
from connector.rooms import lay_rooms
from connector.sandbox.results import SandboxError
from connector.sandbox.sandbox import Sandbox
from connector.settings import Settings, SettingsError
from connector.trainer import SandboxTrainer, open_sandbox
from connector.worker import WorkerWiring
from learning.tasks import register, run_task

_log = structlog.get_logger()


def lay_worker(settings: Settings, name: str) -> WorkerWiring:
    """Return the wiring of the worker process called ``name``.

    Raises:
        SettingsError: a worker of this name runs already.
        IdentityFileError, SchemaVersionError, DatabaseUnavailableError: see :func:`connector.foundation.lay_foundation`.
    """
    let_go = _only_one(settings.folder / "run", name)
    foundation = lay_foundation(settings)
    doorbell = Doorbell(settings)
    sandbox = open_sandbox(settings.folder / "run", socket=settings.sandbox.socket, require=settings.sandbox.require)
    trainer = SandboxTrainer(
        sandbox,
        settings.folder / "state" / "steps",
        seconds=settings.sandbox.seconds,
        memory_mb=settings.sandbox.memory_mb,
    )
    rooms = lay_rooms(foundation, ring=doorbell.ring, doorbell=SilentDoorbell(), trainer=trainer)
    keeper = LeaseKeeper(rooms.book, foundation.now)
    if settings.participant.role == "data-provider":
        # Importing torch takes a second or more; the first round should not wait for it.
        threading.Thread(target=_warm, args=(sandbox,), name="sandbox-warm-up", daemon=True).start()
    # What a worker of this name held when it died is free again: its process is gone, or we would not hold the lock.
    rooms.book.release_owner(name)

    def perform(task: str, key: str) -> None:
        run_task(rooms.node, rooms.book, keeper.held, doorbell.ring, _report, name, task, key)

    def give_tasks(app: Any) -> None:
        register(app, perform)

    return WorkerWiring(
        register=give_tasks, closing=(keeper.stop, doorbell.stop, sandbox.stop, foundation.close, let_go)
    )


def _warm(sandbox: Sandbox) -> None:
    try:
        sandbox.start()
        found = sandbox.ladder()
    except SandboxError as error:
        _log.error("the sandbox cannot run; steps will fail", reason=str(error))
        return
    _log.info("the sandbox is warm", held=found["held"], missing=[rung for rung, _ in found["missing"]])


def _report(task: str, _key: str, error: Exception) -> None:
    # The message of an unknown error may hold anything; its type and place are enough to find it.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    _log.error("a learning task failed", task=task, error=type(error).__name__, where=where)


def _only_one(folder: Path, name: str) -> Callable[[], None]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"worker-{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(
            [f"a worker called {name} runs already in {folder.parent}; give this one another --name"]
        ) from None
    return lambda: os.close(descriptor)
