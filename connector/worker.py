"""The worker process as a value: ``create_worker(settings, wiring)``; there is no global Celery app.

A message is a doorbell: an id and the state it expects, as JSON. The database is the truth, so a lost or doubled
message is harmless. No result is stored and no pickle is read.
"""

import dataclasses
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.signals import worker_shutting_down
from kombu.entity import Exchange, Queue

from connector.settings import Settings

QUEUES = ("control", "train", "aggregate")
# A worker that died whole is noticed after this time; every task is shorter, and harmless when run twice.
_VISIBILITY_SECONDS = 1800
_STOP_SECONDS = 4.0
_BROKER_PORT, _CONNECT_SECONDS = 6379, 2.0


class BrokerUnavailableError(Exception):
    """The configured broker does not answer; whoever runs it can mend it."""

    code = "broker-unavailable"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerWiring:
    """What a worker is made of: a function that gives the app its tasks, and what to close at its end."""

    register: Callable[[Any], None]
    closing: tuple[Callable[[], None], ...] = ()


def require_broker(settings: Settings) -> None:
    """Refuse to start a worker that nobody could call; one that runs already waits for its broker to come back.

    Raises:
        BrokerUnavailableError: with the broker's place, never the password.
    """
    place = urlsplit(settings.broker.url)
    host, port = place.hostname or "127.0.0.1", place.port or _BROKER_PORT
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        raise BrokerUnavailableError(
            f"the broker at {host}:{port} does not answer; start it, or change [broker] url in {settings.file}"
        ) from None


def create_worker(settings: Settings, wiring: WorkerWiring) -> Any:  # Celery has no types.
    """Return the Celery app of one participant with its tasks registered."""
    app = create_publisher(settings)
    wiring.register(app)
    return app


def create_publisher(settings: Settings) -> Any:  # Celery has no types.
    """Return a Celery app without tasks: enough to send messages by task name."""
    app = Celery(f"orchard-{settings.broker.prefix}", broker=settings.broker.url, set_as_current=False)
    app.conf.update(
        broker_transport="connector.broker_transport:Transport",
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue="control",
        # Each queue under an exchange of its own: a shared one would deliver every message to all three.
        task_queues=[Queue(name, Exchange(name), routing_key=name) for name in QUEUES],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_max": 0.5},
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=4.0,
        worker_enable_soft_shutdown_on_idle=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        enable_utc=True,
        # A publisher must fail, not hang, when the broker is away.
        broker_connection_timeout=2.0,
        broker_pool_acquire_timeout=2.0,
        broker_transport_options={
            "socket_connect_timeout": 2.0,
            "global_keyprefix": f"{settings.broker.prefix}.",
            "visibility_timeout": _VISIBILITY_SECONDS,
            # The defaults look for a dead worker's messages every 100 s.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )
    return app


def _end_soon(**_facts: Any) -> None:
    # Celery itself waits for every task, and, without a broker, for the broker.
    timer = threading.Timer(_STOP_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def run_worker(app: Any, *, queues: Sequence[str], concurrency: int, name: str) -> None:
    """Work until told to stop; the process's signals are Celery's from here on.

    What is not done a few seconds after the signal is cut off: a step has no effect but its output, and the leases of
    a worker that is gone are free when one of its name starts.
    """
    worker_shutting_down.connect(_end_soon, weak=False)
    arguments = ["worker", "--queues", ",".join(queues), "--concurrency", str(concurrency), "--hostname", name]
    # Threads: a step runs in a sandboxed process of its own, and nothing in this process imports torch.
    quiet = ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    app.worker_main([*arguments, "--pool", "threads", *quiet])
