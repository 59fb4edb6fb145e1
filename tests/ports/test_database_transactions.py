"""The transaction port: what every store may rely on, on both databases."""

import pytest
import sqlalchemy as sa

from connector.storage.database import Database, Transaction


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
