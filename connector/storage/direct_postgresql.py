"""PostgreSQL past SQLAlchemy and past psycopg's cursors: prepared statements through libpq (``psycopg.pq``).

One costs a tenth of the processor time of one through SQLAlchemy and a sixth of one through a cursor. What nobody waits
for (``BEGIN``, most writes, ``COMMIT``) is held back and goes with the next statement whose result is wanted, in one
message to the server and one back: each such turn costs both sides two changes of process, which is more than a small
statement does.
"""

import dataclasses
import select
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg.pq import ExecStatus
from sqlalchemy import Connection, Dialect
from sqlalchemy.dialects.postgresql.base import PGDialect

from connector.storage.direct import Given, Prepared, Values, row_of
from policies.canonical import sha256_hex

_GOOD: Final = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK})
_NO_SUCH_STATEMENT: Final = "26000"
# A whole publication at once would stand in memory on both sides.
_MOST_HELD: Final = 200
_READERS: Final[Mapping[int, Callable[[bytes], Any]]] = {
    16: lambda value: value == b"t",
    20: int,
    21: int,
    23: int,
    700: float,
    701: float,
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    """A statement with its values, and who wants to hear what it gave."""

    statement: "_Statement"
    values: list[bytes | None]
    heard: Callable[[Given], None] | None = None


@dataclasses.dataclass
class _State:
    """What we know of one connection: its prepared statements, and what is held back."""

    known: set[bytes] = dataclasses.field(default_factory=set)
    held: list[_Held] = dataclasses.field(default_factory=list)


class DirectPostgresql:
    """PostgreSQL: each statement is prepared once per connection."""

    def __init__(self) -> None:
        """Take a dialect that writes places as ``$1``, as the server reads them."""
        self.dialect: Dialect = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call] # SQLAlchemy leaves it untyped
        self._begin, self._commit = _Held(_Statement("BEGIN"), []), _Held(_Statement("COMMIT"), [])

    def prepare(self, text: str) -> Prepared:
        """See the protocol."""
        return _Statement(text)

    def begin(self, connection: Connection, *, writing: bool) -> None:  # noqa: ARG002 - readers and writers do not wait for each other
        """See the protocol."""
        _state(connection).held = [self._begin]

    def flush(self, connection: Connection) -> None:
        """See the protocol."""
        state = _state(connection)
        if state.held:
            batch, state.held = state.held, []
            _sent(connection, state, batch)

    def forget(self, connection: Connection) -> None:
        """See the protocol."""
        _state(connection).held = []

    def commit(self, connection: Connection) -> None:
        """See the protocol."""
        state = _state(connection)
        batch, state.held = [*state.held, self._commit], []
        if len(batch) > 1 and batch[-2] is self._begin:
            # Nothing was done in this transaction.
            return
        result = _sent(connection, state, batch)
        if result.command_status != b"COMMIT":
            raise RuntimeError("a statement of this transaction had failed, and its error was passed over")

    def changes(self, connection: Connection) -> int:  # noqa: ARG002 - the protocol's signature
        """See the protocol."""
        return 0


class _Statement:
    """One statement under the name that it has on every connection."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.name = f"orchard_{sha256_hex(self.text)[:32]}".encode()
        self._row: Any = None
        self._readers: list[Callable[[bytes], Any]] = []

    def later(self, connection: Connection, values: Values) -> None:
        _hold(connection, _Held(self, [_written(value) for value in values]))

    def ask(self, connection: Connection, values: Values, heard: Callable[[Given], None]) -> None:
        _hold(connection, _Held(self, [_written(value) for value in values], heard))

    def run(self, connection: Connection, values: Values) -> Given:
        state = _state(connection)
        batch = [*state.held, _Held(self, [_written(value) for value in values])]
        state.held = []
        return self.given(_sent(connection, state, batch))

    def given(self, result: Any) -> Given:
        """Read a result of this statement."""
        columns = range(result.nfields)
        if not columns:
            return Given(([], result.command_tuples or 0))
        if self._row is None:
            self._readers = [_READERS.get(result.ftype(column), bytes.decode) for column in columns]
            self._row = row_of([(result.fname(column) or b"").decode() for column in columns])
        get = result.get_value
        rows = []
        for number in range(result.ntuples):
            found = [get(number, column) for column in columns]
            rows.append(
                self._row(
                    *[None if value is None else read(value) for value, read in zip(found, self._readers, strict=True)]
                )
            )
        return Given((rows, result.command_tuples or 0))


def _state(connection: Connection) -> _State:
    info = connection.info
    found: _State | None = info.get("direct")
    if found is None:
        found = info["direct"] = _State()
    return found


def _hold(connection: Connection, held: _Held) -> None:
    state = _state(connection)
    state.held.append(held)
    if len(state.held) == _MOST_HELD:
        batch, state.held = state.held, []
        _sent(connection, state, batch)


def _sent(connection: Connection, state: _State, batch: Sequence[_Held]) -> Any:
    """Execute a batch in one turn, tell whoever wants to hear a result, and return the last one.

    Raises:
        psycopg.Error: the first error; what stands behind it in the batch was not executed.
    """
    driver: Any = connection.connection.dbapi_connection
    if len(batch) == 1 and batch[0].statement.name in state.known:
        results = [driver.pgconn.exec_prepared(batch[0].statement.name, batch[0].values)]
    else:
        results = _piped(driver.pgconn, state, batch)
    result = results[-1] if results else None
    if result is None:
        raise psycopg.OperationalError("the connection to the database was lost")
    if result.status not in _GOOD:
        error = _error(driver, result)
        if error.sqlstate == _NO_SUCH_STATEMENT:
            # Somebody dropped one, or all: this connection begins anew.
            state.known.clear()
            driver.pgconn.exec_(b"ROLLBACK")
            driver.pgconn.exec_(b"DEALLOCATE ALL")
        raise error
    for held, found in zip(batch, results, strict=True):
        if held.heard is not None:
            held.heard(held.statement.given(found))
    return result


def _piped(line: Any, state: _State, batch: Sequence[_Held]) -> list[Any]:
    """Return the results up to the first that is an error; none where the connection broke between."""
    line.enter_pipeline_mode()
    new: list[bytes | None] = []
    for held in batch:
        statement = held.statement
        if statement.name not in state.known and statement.name not in new:
            line.send_prepare(statement.name, statement.text)
            new.append(statement.name)
        line.send_query_prepared(statement.name, held.values)
        new.append(None)
    line.pipeline_sync()
    arrives = select.poll()
    arrives.register(line.socket, select.POLLIN | select.POLLOUT)
    while line.flush():
        arrives.poll()
        line.consume_input()
    arrives.modify(line.socket, select.POLLIN)
    found: list[Any] = []
    for name in new:
        result = _arrived(line, arrives)
        if result is None or _arrived(line, arrives) is not None:
            return []
        if found and found[-1].status not in _GOOD:
            continue
        if name is None or result.status not in _GOOD:
            found.append(result)
        else:
            state.known.add(name)
    ended = _arrived(line, arrives)
    if ended is None or ended.status != ExecStatus.PIPELINE_SYNC:
        return []
    line.exit_pipeline_mode()
    return found


def _arrived(line: Any, arrives: select.poll) -> Any:
    # Fetching a result that is not there would wait with the interpreter's lock in hand, for a row that another thread
    # of ours may have locked.
    while line.is_busy():
        arrives.poll()
        line.consume_input()
    return line.get_result()


def _written(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return b"t" if value else b"f"
    data = str(value).encode()
    if b"\0" in data:
        raise psycopg.DataError("PostgreSQL's text holds no NUL")
    return data


def _error(driver: Any, result: Any) -> Any:
    if driver.closed:
        return psycopg.OperationalError("the connection to the database was lost")
    return psycopg.errors.error_from_result(result)
