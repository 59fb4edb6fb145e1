"""The transaction port: what every store may rely on, on both databases."""

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from connector.storage.database import Database, Transaction
from connector.storage.statements import Statement


def test_a_failed_transaction_leaves_nothing_behind(database_url: str) -> None:
    """An exception inside the work rolls everything back and skips what waits for the commit."""
    database, rung = Database(database_url), []
    database.run("create", lambda tx: tx.connection.execute(sa.text("CREATE TABLE t (n INTEGER)")))

    def work(transaction: Transaction) -> None:
        transaction.on_commit(lambda: rung.append(1))
        transaction.connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        raise LookupError

    with pytest.raises(LookupError):
        database.run("insert", work)
    with database.reading() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM t")) == 0
    assert rung == []
    database.close()


def test_the_doorbell_rings_after_the_commit(database_url: str) -> None:
    """A callback registered in a transaction sees the committed rows."""
    database, seen = Database(database_url), []
    database.run("create", lambda tx: tx.connection.execute(sa.text("CREATE TABLE t (n INTEGER)")))

    def count() -> None:
        with database.reading() as connection:
            seen.append(connection.scalar(sa.text("SELECT count(*) FROM t")))

    def work(transaction: Transaction) -> None:
        transaction.connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        transaction.on_commit(count)

    database.run("insert", work)
    assert seen == [1]
    database.close()


def _numbers(database: Database) -> None:
    database.run("create", lambda tx: tx.connection.execute(sa.text("CREATE TABLE t (n INTEGER, s VARCHAR(20))")))


def _add(transaction: Transaction) -> None:
    transaction.connection.execute(sa.text("INSERT INTO t VALUES (1, 'a')"))


def _count(transaction: Transaction) -> int:
    return int(transaction.connection.scalar(sa.text("SELECT count(*) FROM t")) or 0)


def test_readers_wait_for_no_writer(database_url: str) -> None:
    """While a writer is at work, a named transaction that only reads, and a plain look, see the state before it."""
    database = Database(database_url)
    _numbers(database)
    for _ in range(3):
        assert database.run("count", _count) == 0
    inside, done = threading.Event(), threading.Event()

    def slow(transaction: Transaction) -> None:
        _add(transaction)
        inside.set()
        done.wait(30)

    writer = threading.Thread(target=database.run, args=("slow", slow))
    writer.start()
    assert inside.wait(30)
    seen = [database.run("count", _count)]
    with database.reading() as connection:
        seen.append(int(connection.scalar(sa.text("SELECT count(*) FROM t")) or 0))
    done.set()
    writer.join()
    assert seen == [0, 0]
    assert database.run("count", _count) == 1
    database.close()


def test_a_look_sees_one_state(database_url: str) -> None:
    """On SQLite, what is committed while somebody looks is not seen until the next look."""
    database = Database(database_url)
    _numbers(database)
    with database.reading() as connection:
        counts = [connection.scalar(sa.text("SELECT count(*) FROM t"))]
        writer = threading.Thread(target=database.run, args=("add", _add))
        writer.start()
        writer.join()
        counts.append(connection.scalar(sa.text("SELECT count(*) FROM t")))
    assert counts == ([0, 0] if database_url.startswith("sqlite") else [0, 1])
    assert database.run("count", _count) == 1
    database.close()


def test_a_reader_that_writes_after_all_is_run_again(database_url: str) -> None:
    """A name that only ever read may write one day: on a stale state it runs again, and nothing is lost or doubled."""
    database = Database(database_url)
    _numbers(database)
    for _ in range(3):
        database.run("sometimes", _count)
    runs: list[int] = []

    def sometimes(transaction: Transaction) -> None:
        runs.append(_count(transaction))
        if len(runs) == 1:
            other = threading.Thread(target=database.run, args=("add", _add))
            other.start()
            other.join()
        _add(transaction)

    database.run("sometimes", sometimes)
    assert runs == ([0, 1] if database_url.startswith("sqlite") else [0])
    assert database.run("count", _count) == 2
    database.close()


def test_threads_that_write_at_once_all_do(database_url: str) -> None:
    """More threads than turns: each has its own, and none waits for ever for a transaction inside another."""
    database = Database(database_url)
    _numbers(database)
    threads = [threading.Thread(target=database.run, args=("add", _add)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.run("count", _count) == 30
    database.close()


def _statements(database: Database) -> tuple[Statement, Statement]:
    table = sa.Table("t", sa.MetaData(), sa.Column("n", sa.Integer), sa.Column("s", sa.String(20)))
    add = Statement(table.insert().inline(), database.way, columns=("n", "s"))
    return add, Statement(sa.select(table).where(table.c.n == sa.bindparam("of_n")), database.way)


def test_hot_statements_keep_what_they_are_given(database_url: str) -> None:
    """Numbers, text in any script and NULL come back as they went in; columns have their names."""
    database = Database(database_url)
    _numbers(database)
    add, read = _statements(database)
    given = [(1, "plain"), (2, "ünï 漢字 '\"\\"), (3, None), (4, "")]
    for number, text in given:
        assert database.run("add", lambda tx, n=number, s=text: add.run(tx.connection, n=n, s=s).rowcount) == 1
    with database.reading() as connection:
        found = [read.run(connection, of_n=number).one() for number, _ in given]
        assert read.run(connection, of_n=99).first() is None
    assert [(row.n, row.s) for row in found] == given
    database.close()


def test_a_hot_statement_that_fails_undoes_its_transaction(database_url: str) -> None:
    """The driver's error comes out, what the transaction had written before is gone, and the pool goes on."""
    database = Database(database_url)
    _numbers(database)
    add, read = _statements(database)

    def work(transaction: Transaction) -> None:
        add.run(transaction.connection, n=1, s="a")
        add.run(transaction.connection, n=[], s="no number")

    with pytest.raises(Exception, match=r"(?i)invalid input|not supported"):
        database.run("add", work)
    with database.reading() as connection:
        assert read.run(connection, of_n=1).all() == []
    database.run("add", lambda tx: add.run(tx.connection, n=1, s="a"))
    database.close()


def test_a_thousand_statements_that_nobody_waits_for_are_all_done_or_none(database_url: str) -> None:
    """However many are left for later, all are in the commit; one that fails among them undoes the rest."""
    database = Database(database_url)
    _numbers(database)
    add, _ = _statements(database)

    def work(transaction: Transaction, numbers: list[object]) -> None:
        for number in numbers:
            add.later(transaction.connection, n=number, s="a")

    database.run("add", lambda tx: work(tx, [*range(1000)]))
    assert database.run("count", _count) == 1000
    with pytest.raises(Exception, match=r"(?i)invalid input|not supported"):
        database.run("add", lambda tx: work(tx, [*range(300), [], *range(300)]))
    assert database.run("count", _count) == 1000
    database.close()


def test_a_rollback_keeps_prepared_statements(database_url: str) -> None:
    """Statements stay prepared over somebody else's rollback, and are prepared anew where they were dropped."""
    database = Database(database_url)
    _numbers(database)
    add, _ = _statements(database)
    for _ in range(10):
        database.run("add", lambda tx: add.run(tx.connection, n=1, s="a"))
        with database.reading() as connection:
            connection.scalar(sa.text("SELECT count(*) FROM t"))
    if database_url.startswith("postgresql"):
        database.run("drop", lambda tx: tx.connection.exec_driver_sql("DEALLOCATE ALL"))
    database.run("add", lambda tx: add.run(tx.connection, n=1, s="a"))
    assert database.run("count", _count) == 11
    database.close()


def test_a_lost_connection_is_replaced(postgresql_server: Callable[[], str]) -> None:
    """A server that closed the connection costs the transaction that was under way, and not the next one."""
    database = Database(postgresql_server())
    _numbers(database)
    add, _ = _statements(database)
    end = Statement(sa.select(sa.func.pg_terminate_backend(sa.func.pg_backend_pid())), database.way)

    def work(transaction: Transaction) -> None:
        add.run(transaction.connection, n=1, s="a")
        end.run(transaction.connection)

    with pytest.raises(Exception, match="connection"):
        database.run("add", work)
    database.run("add", lambda tx: add.run(tx.connection, n=3, s="c"))
    assert database.run("count", _count) == 1
    database.close()


def test_nul_is_refused_and_not_cut_off(postgresql_server: Callable[[], str]) -> None:
    """PostgreSQL's text ends at a NUL; what holds one is an error, never shorter text."""
    database = Database(postgresql_server())
    _numbers(database)
    add, _ = _statements(database)
    with pytest.raises(Exception, match="NUL"):
        database.run("add", lambda tx: add.run(tx.connection, n=1, s="a\0b"))
    database.close()
