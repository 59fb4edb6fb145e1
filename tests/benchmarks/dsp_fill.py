"""What stands in the databases before a measurement: datasets, and negotiations that have ended."""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from connector.settings import Settings
from connector.storage.contract_rows import agreement_row, event_row, process_row
from connector.storage.contracts import ContractStore
from connector.storage.database import Database
from connector.storage.duties import IN_FORCE
from connector.storage.tables_contracts import agreements, events, outbox, processes, receipts
from connector.storage.tables_duties import agreement_standings
from contracts.agreement import record
from contracts.messages import Agreement, Offer
from contracts.processes import Counterparty, Dataset, Event, Negotiation
from contracts.states import NegotiationState, Role
from policies.expressions import stamp

RESEARCH = "https://w3id.org/dpv#AcademicResearch"
_STEPS = (
    ("ContractRequestMessage", "REQUESTED"),
    ("ContractAgreementMessage", "AGREED"),
    ("ContractAgreementVerificationMessage", "VERIFIED"),
    ("ContractNegotiationEventMessage:FINALIZED", "FINALIZED"),
)
_THEN = datetime(2026, 1, 1, tzinfo=UTC)
_BATCH = 2_000


def offer() -> dict[str, Any]:
    """Return the rules of every offer: one permitted purpose."""
    constraint = {"leftOperand": "purpose", "operator": "eq", "rightOperand": RESEARCH}
    return {"permission": [{"action": "use", "constraint": [constraint]}]}


def fill_datasets(settings: Settings, count: int) -> None:
    """Publish ``count`` datasets: ``urn:dataset:0000000`` and up, in ten subjects."""
    database = Database(settings.storage.database_url)
    store = ContractStore(database)
    for start in range(0, count, _BATCH):
        batch = [_dataset(number) for number in range(start, min(start + _BATCH, count))]

        def work(uow: Any, batch: list[Dataset] = batch) -> None:
            for dataset in batch:
                uow.put_dataset(dataset, now=_THEN)

        store.run("fill.datasets", work)
    settle(database)
    database.close()


def fill_finished(consumer: Settings, provider: Settings, count: int) -> None:
    """Write ``count`` finished negotiations to both databases, with all the rows they leave behind; a process each."""
    sides = ((consumer, Role.CONSUMER, provider), (provider, Role.PROVIDER, consumer))
    with ProcessPoolExecutor(len(sides), multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(_fill_side, *side, count) for side in sides]:
            done.result()


def _fill_side(settings: Settings, role: Role, other: Settings, count: int) -> None:
    database = Database(settings.storage.database_url)
    for start in range(0, count, _BATCH):
        found = [_finished(number, settings, role, other) for number in range(start, min(start + _BATCH, count))]

        def work(transaction: Any, found: list[Negotiation] = found) -> None:
            for table, rows in (
                (processes, [process_row(one, None) for one in found]),
                (agreements, [agreement_row(record(one, one.agreement, now=one.updated_at)) for one in found]),  # type: ignore[arg-type]
                (agreement_standings, [_standing(one) for one in found]),
                (events, [row for one in found for row in _events(one)]),
                (outbox, [row for one in found for row in _sent(one, role)]),
                (receipts, [row for one in found for row in _received(one, role)]),
            ):
                _insert(transaction.connection, table.name, rows)

        database.run("fill.finished", work)
    settle(database)
    database.close()


def settle(database: Database) -> None:
    """Leave a database as one that has been at work for long: vacuumed, with statistics, its log written out."""
    words = ("ANALYZE",) if database.engine.dialect.name == "sqlite" else ("VACUUM (ANALYZE)", "CHECKPOINT")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for word in words:
            connection.exec_driver_sql(word)


def _insert(connection: Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that have the same columns the way that the database is fastest at."""
    names = ", ".join(rows[0])
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(rows[0]))
        driver.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", [tuple(row.values()) for row in rows])  # noqa: S608 - our own names
        return
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(tuple(row.values()))


def _dataset(number: int) -> Dataset:
    name = f"urn:dataset:{number:07}"
    terms = Offer(id=f"urn:offer:{number:07}", target=name, rules=offer())
    return Dataset(
        id=name,
        title=f"Responses {number}",
        description="Answers of learners to items, with skills and times",
        keywords=("knowledge tracing", f"subject {number % 10}"),
        formats=("FederatedTraining",),
        properties={"viewDigest": "ab" * 32},
        offer=terms,
    )


def _finished(number: int, settings: Settings, role: Role, other: Settings) -> Negotiation:
    ours, theirs = (f"urn:uuid:{side}{number:027}" for side in (("c", "p") if role is Role.CONSUMER else ("p", "c")))
    me, peer = settings.participant.id, other.participant.id
    at = _THEN + timedelta(seconds=number)
    target = "urn:dataset:0000000"
    asked = Offer(id="urn:offer:0000000", target=target, rules=offer())
    assigner, assignee = (peer, me) if role is Role.CONSUMER else (me, peer)
    agreed = Agreement(
        id=f"urn:uuid:a{number:027}",
        target=target,
        assigner=assigner,
        assignee=assignee,
        rules=asked.rules,
        timestamp=at.isoformat(),
        signature={"alg": "Ed25519", "kid": assigner, "value": "A" * 86},
    )
    address = f"{other.server.public_url}/dsp/2025-1"
    return Negotiation(
        pid=ours,
        peer_pid=theirs,
        role=role,
        state=NegotiationState.FINALIZED,
        counterparty=Counterparty(participant_id=peer, address=address, public_key="A" * 43, roles=("ai-provider",)),
        dataset_id=target,
        offer=asked,
        offered_by=Role.CONSUMER,
        asked=asked,
        agreement=agreed,
        verified=True,
        created_at=at,
        updated_at=at,
    )


def _standing(value: Negotiation) -> dict[str, Any]:
    agreement_id = value.agreement.id if value.agreement else ""
    at = stamp(value.updated_at)
    return {"agreement_id": agreement_id, "standing": IN_FORCE, "reason": "", "at": at, "duties_noted": True}


def _events(value: Negotiation) -> Iterator[dict[str, Any]]:
    for step, state in _STEPS:
        event = Event(pid=value.pid, at=value.updated_at, direction="sent", step=step, state=state)
        yield event_row(event)


def _ours(role: Role, index: int) -> bool:
    return (index % 2 == 0) is (role is Role.CONSUMER)


def _sent(value: Negotiation, role: Role) -> Iterator[dict[str, Any]]:
    at = 1_700_000_000_000_000
    for index, (step, _) in enumerate(_STEPS):
        if _ours(role, index):
            yield {
                "pid": value.pid,
                "kind": "negotiation",
                "step": step,
                "message_id": f"{value.pid}/{index}",
                "audience": value.counterparty.participant_id,
                "url": f"{value.counterparty.address}/negotiations/{value.peer_pid}/events",
                "body": "{}" * 300,
                "status": "sent",
                "attempts": 1,
                "due_at": at,
                "created_at": at,
                "last_attempt_at": at,
                "last_status": 200,
                "last_answer": "",
            }


def _received(value: Negotiation, role: Role) -> Iterator[dict[str, Any]]:
    for index, (step, _) in enumerate(_STEPS):
        if not _ours(role, index):
            yield {
                "pid": value.pid,
                "message_id": f"{value.pid}/{index}",
                "digest": "0" * 64,
                "step": step,
                "received_at": 1_700_000_000_000_000,
            }
