"""The doorbell of learning work: after a commit, a Celery message says which task is due for what.

Publishing happens on a thread of its own, so that no request and no transaction waits for the broker. A ring that is
lost is repeated by the sweep.
"""

import queue
import threading
from typing import Any

import structlog

from connector.settings import Settings

_log = structlog.get_logger()


class Doorbell:
    """Publishes task names with keys; knows nothing else of the work."""

    def __init__(self, settings: Settings) -> None:
        """Publish to the broker of ``settings``; without one every ring is dropped."""
        self._settings = settings
        self._rings: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._down = False

    def ring(self, task: str, key: str) -> None:
        """Say that ``task`` is due for ``key``; returns at once."""
        if not self._settings.broker.url:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._publish, name="doorbell", daemon=True)
                self._thread.start()
        self._rings.put((task, key))

    def start(self) -> None:
        """Nothing to do: the thread starts with the first ring (and imports Celery only then)."""

    def stop(self) -> None:
        """Publish what was rung and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._rings.put(None)
            thread.join(timeout=5)

    def _publish(self) -> None:
        # They cost a third of a second to import; an API process whose participant never trains never pays it.
        from connector.worker import create_publisher  # noqa: PLC0415
        from learning.tasks import TASKS  # noqa: PLC0415

        app = create_publisher(self._settings)
        while (ring := self._rings.get()) is not None:
            self._send(app, TASKS[ring[0]].queue, *ring)
        app.close()

    def _send(self, app: Any, at: str, task: str, key: str) -> None:
        try:
            app.send_task(task, args=[key], queue=at, ignore_result=True, retry=False)
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises, the sweep rings again
            if not self._down:
                _log.warning("the broker cannot be reached; learning work waits", error=type(error).__name__)
            self._down = True
        else:
            if self._down:
                _log.info("the broker is back")
            self._down = False
