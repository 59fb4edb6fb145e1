"""The contracts room's store on SQLite and PostgreSQL (port: ``contracts.ports.Store``)."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from connector.storage.contract_rows import (
    agreement_of,
    agreement_row,
    event_of,
    event_row,
    micros,
    process_of,
    process_row,
    time_of,
)
from connector.storage.database import Database, Transaction
from connector.storage.datasets import DatasetStatements, catalog_page
from connector.storage.direct import Direct, duplicated
from connector.storage.newest_first import newest_first
from connector.storage.outbox import OutboxStatements
from connector.storage.statements import Statement
from connector.storage.stuck import undelivered
from connector.storage.tables_contracts import agreements, events, processes, receipts
from contracts.errors import ConflictingRepeatError
from contracts.ports import CatalogQuery, Page, Query, UnitOfWork
from contracts.processes import (
    AgreementRecord,
    Dataset,
    Event,
    Kind,
    Negotiation,
    OutboxRow,
    Process,
    Receipt,
    Transfer,
)

T = TypeVar("T")
_RUNS = 3
# A sweep asks this every second: building a statement costs as much as running it.
_DUE_BEHAVIOURS = (
    select(processes.c.kind, processes.c.pid)
    .where(processes.c.act_at.is_not(None), processes.c.act_at <= bindparam("now"))
    .order_by(processes.c.act_at)
    .limit(bindparam("most"))
)
_CHANGING = ("state", "counterparty_address", "peer_pid", "agreement_id", "details", "updated_at", "act_at")


class ProcessTakenError(Exception):
    """Another transaction inserted the same process first; run again and find it there."""


class ContractStatements:
    """The hot statements of this store, for one database."""

    def __init__(self, way: Direct) -> None:
        """Compile the statements."""
        insert: Any = postgresql.insert if way.dialect.name == "postgresql" else sqlite.insert
        p = processes.c
        # By its key alone: on tables too young for statistics PostgreSQL takes any index that one more column would fit.
        one = select(processes).where(p.pid == bindparam("of_pid"))
        self.read = Statement(one, way)
        self.lock = Statement(one.with_for_update(), way)
        self.due = Statement(one.where(p.act_at <= bindparam("now")).with_for_update(), way)
        self.by_peer = Statement(
            select(processes)
            .where(p.counterparty_id == bindparam("peer"), p.peer_pid == bindparam("of_peer_pid"))
            .with_for_update(),
            way,
        )
        columns = [column.name for column in processes.columns]
        self.add = Statement(processes.insert().inline(), way, columns=columns)
        self.save = Statement(processes.update().where(p.pid == bindparam("of_pid")), way, columns=_CHANGING)
        self.put_off = Statement(processes.update().where(p.pid == bindparam("of_pid")), way, columns=("act_at",))
        self.learn = Statement(
            processes.update().where(p.pid == bindparam("of_pid"), p.peer_pid.is_(None)), way, columns=("peer_pid",)
        )
        self.add_event = Statement(
            events.insert().inline(), way, columns=("pid", "at", "direction", "step", "state", "reasons")
        )
        self.add_receipt = Statement(
            insert(receipts).on_conflict_do_nothing(),
            way,
            columns=("pid", "message_id", "digest", "step", "received_at"),
        )
        r = receipts.c
        self.read_receipt = Statement(
            select(receipts).where(r.pid == bindparam("of_pid"), r.message_id == bindparam("of_id")), way
        )
        self.add_agreement = Statement(
            agreements.insert().inline(), way, columns=[column.name for column in agreements.columns]
        )
        self.read_agreement = Statement(select(agreements).where(agreements.c.id == bindparam("of_id")), way)
        self.datasets = DatasetStatements(way)
        self.outbox = OutboxStatements(way)


class SqlUnitOfWork:
    """One open transaction (port: ``contracts.ports.UnitOfWork``)."""

    def __init__(self, transaction: Transaction, statements: ContractStatements) -> None:
        """Work on ``transaction``."""
        self._transaction = transaction
        self._connection: Connection = transaction.connection
        self._do = statements

    def negotiation(self, pid: str, *, lock: bool = False) -> Negotiation | None:
        """See the port."""
        found = self._process(Kind.NEGOTIATION, pid, lock=lock)
        return found if isinstance(found, Negotiation) else None

    def transfer(self, pid: str, *, lock: bool = False) -> Transfer | None:
        """See the port."""
        found = self._process(Kind.TRANSFER, pid, lock=lock)
        return found if isinstance(found, Transfer) else None

    def _process(self, kind: Kind, pid: str, *, lock: bool) -> Process | None:
        statement = self._do.lock if lock else self._do.read
        row = statement.run(self._connection, of_pid=pid).first()
        return process_of(row) if row and row.kind == kind else None

    def by_peer_pid(self, kind: Kind, counterparty: str, peer_pid: str, role: str) -> Process | None:
        """See the port."""
        rows = self._do.by_peer.run(self._connection, peer=counterparty, of_peer_pid=peer_pid).all()
        return next((process_of(row) for row in rows if (row.kind, row.role) == (kind, role)), None)

    def add(self, process: Process, *, act_at: datetime | None) -> None:
        """See the port."""
        self._do.add.later(self._connection, **process_row(process, act_at))

    def save(self, process: Process, *, act_at: datetime | None) -> None:
        """See the port."""
        row = process_row(process, act_at)
        self._do.save.later(self._connection, of_pid=process.pid, **{name: row[name] for name in _CHANGING})

    def learn_peer_pid(self, pid: str, peer_pid: str) -> None:
        """See the port."""
        self._do.learn.later(self._connection, of_pid=pid, peer_pid=peer_pid)

    def take_due(self, kind: Kind, pid: str, *, now: datetime, until: datetime) -> tuple[Process, datetime] | None:
        """See the port."""
        row = self._do.due.run(self._connection, of_pid=pid, now=micros(now)).first()
        if row is None or row.kind != kind:
            return None
        self._do.put_off.later(self._connection, of_pid=pid, act_at=micros(until))
        return process_of(row), time_of(row.act_at)

    def meet(self, kind: Kind, receipt: Receipt) -> tuple[Process | None, Receipt | None]:
        """See the port."""
        found: list[Any] = []
        self._do.lock.ask(self._connection, lambda result: found.append(result.first()), of_pid=receipt.pid)
        earlier = self.receive(receipt)
        row = found[0]
        return (process_of(row) if row and row.kind == kind else None), earlier

    def begin(self, receipt: Receipt) -> None:
        """See the port."""
        self._do.add_receipt.later(self._connection, **_receipt_row(receipt))

    def receive(self, receipt: Receipt) -> Receipt | None:
        """See the port."""
        if self._do.add_receipt.run(self._connection, **_receipt_row(receipt)).rowcount == 1:
            return None
        row = self._do.read_receipt.run(self._connection, of_pid=receipt.pid, of_id=receipt.message_id).one()
        return Receipt(
            pid=row.pid,
            message_id=row.message_id,
            digest=row.digest,
            step=row.step,
            received_at=time_of(row.received_at),
        )

    def add_events(self, events: Sequence[Event]) -> None:
        """See the port."""
        for event in events:
            self._do.add_event.later(self._connection, **event_row(event))

    def enqueue(self, row: OutboxRow, *, lease: str | None, lease_until: datetime) -> Callable[[], OutboxRow]:
        """See the port."""
        return self._do.outbox.enqueue(self._connection, row, lease, lease_until)

    def drop_queued(self, pid: str) -> None:
        """See the port."""
        self._do.outbox.drop_queued(self._connection, pid)

    def finish(self, row: OutboxRow, *, at: datetime, answer_status: int) -> None:
        """See the port."""
        self._do.outbox.finish(self._connection, row, at, answer_status)

    def settle(
        self,
        row: OutboxRow,
        *,
        status: str,
        at: datetime,
        answer_status: int | None,
        answer: str | None,
        answer_code: str | None = None,
        due_at: datetime | None = None,
    ) -> bool:
        """See the port."""
        return self._do.outbox.settle(
            self._connection,
            row,
            status=status,
            at=at,
            answer_status=answer_status,
            answer_code=answer_code,
            answer=answer,
            due_at=due_at,
        )

    def renew(self, row: OutboxRow, *, until: datetime) -> bool:
        """See the port."""
        return self._do.outbox.renew(self._connection, row, until)

    def hold(self, audience: str, *, until: datetime, now: datetime) -> None:
        """See the port."""
        self._do.outbox.hold(self._connection, audience, until, now)

    def lease_next(self, pid: str, *, lease: str, now: datetime, until: datetime) -> Callable[[], OutboxRow | None]:
        """See the port."""
        return self._do.outbox.lease_next(self._connection, pid, lease=lease, now=now, until=until)

    def dataset(self, dataset_id: str) -> Dataset | None:
        """See the port."""
        return self._do.datasets.read(self._connection, dataset_id)

    def put_dataset(self, dataset: Dataset, *, now: datetime) -> None:
        """See the port."""
        self._do.datasets.put(self._connection, dataset, now)

    def remove_dataset(self, dataset_id: str) -> bool:
        """See the port."""
        return self._do.datasets.remove(self._connection, dataset_id)

    def agreement(self, agreement_id: str) -> AgreementRecord | None:
        """See the port."""
        row = self._do.read_agreement.run(self._connection, of_id=agreement_id).first()
        return agreement_of(row) if row else None

    def add_agreement(self, record: AgreementRecord) -> None:
        """See the port."""
        self._do.add_agreement.later(self._connection, **agreement_row(record))

    def on_commit(self, callback: Callable[[], None]) -> None:
        """See the port."""
        self._transaction.on_commit(callback)


class ContractStore:
    """The contracts part of a participant's database (port: ``contracts.ports.Store``)."""

    def __init__(self, database: Database) -> None:
        """Keep everything in ``database``."""
        self._database = database
        self._do = ContractStatements(database.way)

    def run(self, name: str, work: Callable[[UnitOfWork], T]) -> T:
        """See the port."""
        for _ in range(_RUNS - 1):
            try:
                return self._once(name, work)
            except ProcessTakenError:
                continue
        return self._once(name, work)

    def _once(self, name: str, work: Callable[[UnitOfWork], T]) -> T:
        try:
            return self._database.run(name, lambda transaction: work(SqlUnitOfWork(transaction, self._do)))
        except Exception as error:
            # Nobody waits for these two INSERTs: that their key is taken shows when the transaction ends.
            table = duplicated(error)
            if table == processes.name:
                raise ProcessTakenError from error
            if table == agreements.name:
                raise ConflictingRepeatError("this agreement id names another agreement already") from error
            raise

    def negotiation(self, pid: str) -> Negotiation | None:
        """See the port."""
        found = self._process(Kind.NEGOTIATION, pid)
        return found if isinstance(found, Negotiation) else None

    def transfer(self, pid: str) -> Transfer | None:
        """See the port."""
        found = self._process(Kind.TRANSFER, pid)
        return found if isinstance(found, Transfer) else None

    def _process(self, kind: Kind, pid: str) -> Process | None:
        with self._database.reading() as connection:
            row = self._do.read.run(connection, of_pid=pid).first()
        return process_of(row) if row and row.kind == kind else None

    def agreement(self, agreement_id: str) -> AgreementRecord | None:
        """See the port."""
        with self._database.reading() as connection:
            row = self._do.read_agreement.run(connection, of_id=agreement_id).first()
        return agreement_of(row) if row else None

    def dataset(self, dataset_id: str) -> Dataset | None:
        """See the port."""
        with self._database.reading() as connection:
            return self._do.datasets.read(connection, dataset_id)

    def processes(self, kind: Kind, query: Query) -> Page:
        """See the port."""
        c = processes.c
        wanted = [c.kind == kind.value, *_asked(query, state=c.state, agreement_id=c.agreement_id), *_shared(query, c)]
        with self._database.reading() as connection:
            page = newest_first(
                connection, processes, wanted, order=(c.created_at, c.pid), cursor=query.cursor, limit=query.limit
            )
        items = tuple(process_of(row) for row in page.rows)
        return Page(items=items, cursor=page.following, previous=page.previous)

    def agreements(self, query: Query) -> Page:
        """See the port."""
        c = agreements.c
        with self._database.reading() as connection:
            page = newest_first(
                connection,
                agreements,
                _shared(query, c),
                order=(c.concluded_at, c.id),
                cursor=query.cursor,
                limit=query.limit,
            )
        items = tuple(agreement_of(row) for row in page.rows)
        return Page(items=items, cursor=page.following, previous=page.previous)

    def datasets(self, query: CatalogQuery) -> Sequence[Dataset]:
        """See the port."""
        with self._database.reading() as connection:
            return catalog_page(connection, query)

    def events(self, pid: str, *, after: int = 0) -> Sequence[Event]:
        """See the port."""
        statement = select(events).where(events.c.pid == pid, events.c.seq > after).order_by(events.c.seq)
        with self._database.reading() as connection:
            return [event_of(row) for row in connection.execute(statement)]

    def deliveries(self, pid: str) -> Sequence[OutboxRow]:
        """See the port."""
        with self._database.reading() as connection:
            return self._do.outbox.of(connection, pid)

    def undelivered(self, pids: Sequence[str]) -> Mapping[str, Sequence[OutboxRow]]:
        """See the port."""
        with self._database.reading() as connection:
            return undelivered(connection, pids)

    def lease_due(
        self, *, lease: str, now: datetime, until: datetime, limit: int, skip: frozenset[str] = frozenset()
    ) -> Sequence[OutboxRow]:
        """See the port."""

        def work(transaction: Transaction) -> Sequence[OutboxRow]:
            return self._do.outbox.lease_due(
                transaction.connection, lease=lease, now=now, until=until, limit=limit, skip=skip
            )

        return self._database.run("outbox.lease", work)

    def release(self, holder: str) -> None:
        """See the port."""
        self._database.run(
            "outbox.release", lambda transaction: self._do.outbox.release(transaction.connection, holder)
        )

    def hasten(self, *, now: datetime, until: datetime) -> None:
        """See the port."""
        c = processes.c
        taken = processes.update().where(c.act_at.is_not(None), c.act_at > micros(now), c.act_at <= micros(until))
        self._database.run(
            "process.hasten", lambda transaction: transaction.connection.execute(taken.values(act_at=micros(now)))
        )

    def due_behaviours(self, *, now: datetime, limit: int) -> Sequence[tuple[Kind, str]]:
        """See the port."""
        with self._database.reading() as connection:
            rows = connection.execute(_DUE_BEHAVIOURS, {"now": micros(now), "most": limit}).all()
        return [(Kind(row.kind), row.pid) for row in rows]


def _receipt_row(receipt: Receipt) -> dict[str, Any]:
    return {
        "pid": receipt.pid,
        "message_id": receipt.message_id,
        "digest": receipt.digest,
        "step": str(receipt.step),
        "received_at": micros(receipt.received_at),
    }


def _shared(query: Query, columns: Any) -> list[ColumnElement[bool]]:
    return _asked(query, role=columns.role, counterparty=columns.counterparty_id, dataset_id=columns.dataset_id)


def _asked(query: Query, **columns: Any) -> list[ColumnElement[bool]]:
    given = ((column, getattr(query, name)) for name, column in columns.items())
    return [column == value for column, value in given if value is not None]
