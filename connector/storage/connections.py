"""Connections that are kept between transactions, the last one used first.

The pool behind them checks each connection in and out, which costs more than a statement; a server process that has just
served us has everything at hand, where one that has not for long must look it up again.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

from sqlalchemy import Connection, Engine

_IDLE_SECONDS = 2.0


class Connections:
    """Kept connections of an engine. Safe between threads; each connection is one thread's at a time."""

    def __init__(self, engine: Engine, most: int) -> None:
        """Keep at most ``most`` of them."""
        self._engine = engine
        self._most = most
        self._ping = engine.dialect.name != "sqlite"
        self._kept: deque[tuple[Connection, float]] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[Connection]:
        """Give a connection without a transaction; an exception rolls back what is open on it and parts with it."""
        connection = self._taken() or self._engine.connect()
        try:
            yield connection
        except BaseException:
            if getattr(connection.connection.dbapi_connection, "closed", False):
                connection.invalidate()
            connection.close()
            raise
        with self._lock:
            if len(self._kept) < self._most:
                self._kept.append((connection, time.monotonic()))
                return
        connection.close()

    def close(self) -> None:
        """Part with all that are kept."""
        with self._lock:
            kept, self._kept = self._kept, deque()
        for connection, _ in kept:
            connection.close()

    def _taken(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._kept:
                    return None
                connection, used = self._kept.pop()
            if not self._ping or self._lives(connection, time.monotonic() - used):
                return connection
            connection.invalidate()
            connection.close()

    def _lives(self, connection: Connection, idle: float) -> bool:
        """Whether the server still answers: asked where it was not for a while, for every question is a round trip."""
        driver = connection.connection.dbapi_connection
        if getattr(driver, "closed", False):
            return False
        if idle <= _IDLE_SECONDS:
            return True
        try:
            return bool(driver is not None and self._engine.dialect.do_ping(driver))
        except self._engine.dialect.loaded_dbapi.Error:
            return False
