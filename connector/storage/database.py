"""The database and its transactions: one named, re-runnable transaction per message or command.

SQLite (WAL) is the embedded default and PostgreSQL the production store; both are reached through SQLAlchemy Core, and
hot statements past it (``direct``). Every writing transaction on SQLite begins with ``BEGIN IMMEDIATE``: a read that
later turns into a write fails at once on a stale snapshot otherwise, whatever the busy timeout. Which transactions only
read is learnt by name: after two runs that changed nothing it begins without the writers' lock; where it then writes
after all, on a state that has become stale, it is run again as a writer.
"""

import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from connector.storage.connections import Connections
from connector.storage.direct import Direct, direct

T = TypeVar("T")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ATTEMPTS = 5
_AT_ONCE = 8
_QUIET_RUNS = 2
# Serialization failure, deadlock, and a prepared statement that somebody dropped behind our back.
_RUN_AGAIN = frozenset({"40001", "40P01", "26000"})


@dataclasses.dataclass(kw_only=True)
class Transaction:
    """One open transaction: a connection to run statements on, and what to do once it has committed."""

    name: str
    connection: Connection
    after_commit: list[Callable[[], None]] = dataclasses.field(default_factory=list)

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the commit (ring a doorbell); never before, never on a rollback."""
        self.after_commit.append(callback)


class Database:
    """A pool of connections to one participant's database."""

    def __init__(self, url: str, *, pool_size: int = 24) -> None:
        """Open the pool for an SQLAlchemy URL; nothing is created (see ``orchard migrate``)."""
        self.url = url
        self.engine: Engine = _engine(url, pool_size)
        self.way: Direct = direct(self.engine.dialect)
        # What goes to the database through SQLAlchemy comes behind what was left for later.
        event.listen(self.engine, "before_cursor_execute", self._flush)
        self._embedded = self.engine.dialect.name == "sqlite"
        # SQLite has one writer; threads that find it busy would sleep and look again, ever more rarely. On PostgreSQL more
        # transactions at once than this only wait for each other, each on a server process with caches of its own.
        self._turn: contextlib.AbstractContextManager[Any] = (
            threading.Lock() if self._embedded else threading.BoundedSemaphore(_AT_ONCE)
        )
        self._names = _Names()
        self._connections = Connections(self.engine, pool_size)
        self._mine = threading.local()

    @property
    def current(self) -> Transaction | None:
        """The transaction that is open in this thread, None outside :meth:`run`.

        What must be written beside the work of somebody else's transaction (the decision log) goes through it: a second
        writer would wait for the first one for ever.
        """
        return getattr(self._mine, "transaction", None)

    def run(self, name: str, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a transaction of the given name and commit; run it again on a serialization failure.

        ``work`` must have no effect outside the database: it may run more than once. What must happen after the
        commit goes through :meth:`Transaction.on_commit`.
        """
        for attempt in range(_ATTEMPTS):
            writing = attempt > 0 or not (self._embedded and self._names.only_reads(name))
            try:
                return self._once(name, work, writing=writing)
            except Exception as error:
                if attempt == _ATTEMPTS - 1 or not _may_run_again(error):
                    raise
        raise AssertionError("unreachable")

    def _once(self, name: str, work: Callable[[Transaction], T], *, writing: bool) -> T:
        outer = self.current
        if outer is not None and self._embedded:
            raise RuntimeError(f"{name} would wait for ever for {outer.name}, which this thread has open")
        # Whoever has a turn already must not wait for another.
        turn = self._turn if writing and outer is None else contextlib.nullcontext()
        with turn, self._connections.one() as connection:
            # The hot statements go past SQLAlchemy, to the driver: it must know that there is something to commit.
            connection.begin()
            before = self.way.changes(connection)
            self.way.begin(connection, writing=writing)
            transaction = Transaction(name=name, connection=connection)
            self._mine.transaction = transaction
            try:
                result = work(transaction)
            except BaseException:
                self.way.forget(connection)
                raise
            finally:
                self._mine.transaction = outer
                if self._embedded:
                    self._names.note(name, wrote=self.way.changes(connection) != before)
            self._commit(connection)
        for callback in transaction.after_commit:
            callback()
        return result

    def _commit(self, connection: Connection) -> None:
        self.way.commit(connection)
        connection.commit()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for statements that only read; rolled back at the end.

        On SQLite they all see the same state, and wait for no writer.
        """
        with self._connections.one() as connection:
            if self._embedded:
                connection.begin()
                self.way.begin(connection, writing=False)
            yield connection
            connection.rollback()

    def _flush(self, connection: Connection, *_call: object) -> None:
        self.way.flush(connection)

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()
        self.engine.dispose()


class _Names:
    """Which transactions only read at present, by name. Safe between threads: a lost note costs one turn."""

    def __init__(self) -> None:
        self._runs_since_write: dict[str, int] = {}

    def only_reads(self, name: str) -> bool:
        return self._runs_since_write.get(name, 0) >= _QUIET_RUNS

    def note(self, name: str, *, wrote: bool) -> None:
        self._runs_since_write[name] = 0 if wrote else self._runs_since_write.get(name, 0) + 1


def _engine(url: str, pool_size: int) -> Engine:
    if not url.startswith("sqlite"):
        # psycopg drops every prepared statement of a connection at a rollback, ours too, once it has one of its own.
        settings = {"client_encoding": "utf8", "prepare_threshold": None}
        return create_engine(
            url, pool_size=pool_size, max_overflow=4 * pool_size, pool_pre_ping=True, connect_args=settings
        )
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=4 * pool_size,
        connect_args={"timeout": 30.0, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _may_run_again(error: Exception) -> bool:
    found = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(found, sqlite3.OperationalError) and "database is locked" in str(found):
        return True
    return getattr(found, "sqlstate", None) in _RUN_AGAIN
