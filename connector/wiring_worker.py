"""The composition root of the worker process: the foundation, and the learning tasks on it."""

from typing import Any

from connector.settings import Settings
from connector.wiring import lay_foundation
from connector.worker import WorkerWiring


def lay_worker(settings: Settings) -> WorkerWiring:
    """Return the wiring of a worker process; raises as :func:`connector.wiring.lay_foundation` does."""
    foundation = lay_foundation(settings)

    def register(_app: Any) -> None:  # Celery has no types.
        pass

    return WorkerWiring(register=register, closing=(foundation.close,))
