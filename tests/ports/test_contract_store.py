"""The contracts room's store: one suite for SQLite and PostgreSQL."""

import dataclasses
import re
import threading
from datetime import timedelta

import pytest

from connector.storage.contracts import ContractStatements, ContractStore, ProcessTakenError
from connector.storage.database import Database
from connector.storage.migrate import upgrade
from contracts.errors import ConflictingRepeatError, CursorError
from contracts.messages import Agreement
from contracts.ports import Query
from contracts.processes import (
    AgreementRecord,
    Counterparty,
    Event,
    Kind,
    Negotiation,
    OutboxRow,
    OutboxStatus,
    Receipt,
    Transfer,
)
from contracts.states import NegotiationState, Role
from contracts.transfers import TransferState
from tests.support.dataspace import MARKETING, START, Clock, Wire, asking, dataset, open_side, rules, settle

PEER = Counterparty(participant_id="did:web:c", address="https://c.example/dsp", public_key="k", roles=("ai-provider",))
SOON = START + timedelta(seconds=30)


@pytest.fixture
def store(database: Database) -> ContractStore:
    """Return a store over an empty, migrated database."""
    return ContractStore(database)


def _negotiation(number: int = 1, **changes) -> Negotiation:
    offer = asking(dataset())
    values = {
        "pid": f"urn:n:{number}",
        "role": Role.PROVIDER,
        "state": NegotiationState.REQUESTED,
        "counterparty": PEER,
        "dataset_id": offer.target,
        "offer": offer,
        "asked": offer,
        "offered_by": Role.CONSUMER,
        "created_at": START + timedelta(seconds=number),
        "updated_at": START + timedelta(microseconds=number),
        "peer_pid": f"urn:peer:{number}",
    }
    return Negotiation(**{**values, **changes})


def _transfer(**changes) -> Transfer:
    values = {
        "pid": "urn:t:1",
        "role": Role.CONSUMER,
        "state": TransferState.REQUESTED,
        "counterparty": PEER,
        "dataset_id": "urn:dataset:algebra",
        "agreement_id": "urn:a:1",
        "format": "FederatedTraining",
        "created_at": START,
        "updated_at": START,
    }
    return Transfer(**{**values, **changes})


def _row(number: int = 1, pid: str = "urn:n:1", due=START) -> OutboxRow:
    return OutboxRow(
        id=0,
        pid=pid,
        kind=Kind.NEGOTIATION,
        step="ContractRequestMessage",
        message_id=f"urn:m:{number}",
        audience="did:web:c",
        url="https://c.example/dsp/negotiations/request",
        body="{}",
        status=OutboxStatus.QUEUED,
        attempts=0,
        due_at=due,
        created_at=START,
    )


def _enqueue(store: ContractStore, row: OutboxRow, lease: str | None = "me") -> OutboxRow:
    return store.run("test", lambda uow: uow.enqueue(row, lease=lease, lease_until=SOON))()


AGREEMENT = Agreement(id="urn:a:1", target="urn:d", assigner="p", assignee="c", rules=rules(), timestamp="t")


@pytest.mark.parametrize(
    "value",
    [
        _negotiation(),
        _negotiation(
            agreement=AGREEMENT,
            verified=True,
            reasons=("because ünïcode",),
            state=NegotiationState.FINALIZED,
            asked=None,
        ),
        _negotiation(peer_pid=None, asked=asking(dataset(), rules=rules(MARKETING))),
    ],
    ids=["fresh", "finalized", "countered"],
)
def test_a_negotiation_comes_back_as_it_was_saved(store, value):
    """Adding, reading and saving keep every field."""
    store.run("test", lambda uow: uow.add(value, act_at=None))
    assert store.negotiation(value.pid) == value
    assert store.transfer(value.pid) is None
    changed = dataclasses.replace(value, state=NegotiationState.TERMINATED, reasons=("x",), peer_pid="urn:peer:new")
    store.run("test", lambda uow: uow.save(changed, act_at=None))
    assert store.run("test", lambda uow: uow.negotiation(value.pid, lock=True)) == changed


def test_a_transfer_comes_back_as_it_was_saved(store):
    """Transfers live beside negotiations and are not mistaken for them."""
    store.run("test", lambda uow: uow.add(_transfer(), act_at=None))
    assert store.transfer("urn:t:1") == _transfer()
    assert store.negotiation("urn:t:1") is None


def test_the_peers_pid_is_its_idempotency_key(store):
    """The same pid of the same peer in the same role is one process; adding it again is refused for good."""
    store.run("test", lambda uow: uow.add(_negotiation(), act_at=None))
    found = store.run("test", lambda uow: uow.by_peer_pid(Kind.NEGOTIATION, "did:web:c", "urn:peer:1", Role.PROVIDER))
    assert found == _negotiation()
    assert (
        store.run("t", lambda uow: uow.by_peer_pid(Kind.NEGOTIATION, "did:web:x", "urn:peer:1", Role.PROVIDER)) is None
    )
    with pytest.raises(ProcessTakenError):
        store.run("test", lambda uow: uow.add(_negotiation(pid="urn:n:other"), act_at=None))


def test_a_receipt_is_recorded_once(store):
    """The second time a message id comes, the first record is returned."""
    receipt = Receipt(pid="urn:n:1", message_id="urn:m", digest="a" * 64, step="x", received_at=START)
    assert store.run("test", lambda uow: uow.receive(receipt)) is None
    other = dataclasses.replace(receipt, digest="b" * 64)
    assert store.run("test", lambda uow: uow.receive(other)) == receipt


def test_a_process_is_met_with_its_message(store):
    """One turn gives the process and whether the message came before; of a refused message nothing stays."""
    receipt = Receipt(pid="urn:n:1", message_id="urn:m", digest="a" * 64, step="x", received_at=START)
    meet = lambda uow, kind=Kind.NEGOTIATION: uow.meet(kind, receipt)  # noqa: E731

    def refuse(uow):
        assert uow.meet(Kind.NEGOTIATION, receipt) == (_negotiation(), None)
        raise LookupError

    store.run("test", lambda uow: uow.add(_negotiation(), act_at=None))
    with pytest.raises(LookupError):
        store.run("test", refuse)
    assert store.run("test", meet) == (_negotiation(), None)
    assert store.run("test", meet) == (_negotiation(), receipt)
    assert store.run("test", lambda uow: uow.meet(Kind.TRANSFER, receipt)) == (None, receipt)
    store.run("test", lambda uow: uow.begin(dataclasses.replace(receipt, pid="urn:n:2")))
    unknown = dataclasses.replace(receipt, pid="urn:n:2")
    assert store.run("test", lambda uow: uow.meet(Kind.NEGOTIATION, unknown)) == (None, unknown)


def test_an_agreement_is_never_replaced(store):
    """A second agreement of the same id is refused, whoever sends it."""
    record = AgreementRecord(
        agreement=AGREEMENT,
        digest="d" * 64,
        role=Role.CONSUMER,
        counterparty=Counterparty(participant_id="did:web:c", address="https://c.example/dsp"),
        negotiation_pid="urn:n:1",
        concluded_at=START,
    )
    store.run("test", lambda uow: uow.add_agreement(record))
    assert store.agreement("urn:a:1") == record
    with pytest.raises(ConflictingRepeatError):
        store.run("test", lambda uow: uow.add_agreement(dataclasses.replace(record, digest="e" * 64)))
    assert store.agreements(Query(counterparty="did:web:c")).items == (record,)


def test_events_are_read_in_order_and_after_a_number(store):
    """A history is appended to and read from any point."""
    events = [
        Event(pid="urn:n:1", at=START, direction="sent", step=f"s{n}", state="REQUESTED", reasons=("why",) * n)
        for n in range(3)
    ]
    store.run("test", lambda uow: uow.add_events(events))
    found = store.events("urn:n:1")
    assert [dataclasses.replace(event, seq=0) for event in found] == events
    assert store.events("urn:n:1", after=found[1].seq) == [found[2]]


def test_processes_are_paged_newest_first_and_filtered(store):
    """Cursors lead through every process once; each filter holds."""
    for number in range(7):
        state = NegotiationState.TERMINATED if number % 2 else NegotiationState.FINALIZED
        store.run("test", lambda uow, n=number, s=state: uow.add(_negotiation(n, state=s), act_at=None))
    seen, cursor = [], None
    while True:
        page = store.processes(Kind.NEGOTIATION, Query(cursor=cursor, limit=3))
        seen += [one.pid for one in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [f"urn:n:{number}" for number in reversed(range(7))]
    assert len(store.processes(Kind.NEGOTIATION, Query(state="FINALIZED")).items) == 4
    assert len(store.processes(Kind.NEGOTIATION, Query(counterparty="did:web:c")).items) == 7
    assert store.processes(Kind.NEGOTIATION, Query(counterparty="did:web:x")).items == ()
    assert store.processes(Kind.TRANSFER, Query()).items == ()
    assert len(store.processes(Kind.NEGOTIATION, Query(dataset_id="urn:dataset:algebra", limit=3)).items) == 3
    for made_up in ("bm9uc2Vuc2U", "WyI-IiwgMV0", "WyI9IiwgMSwgImEiXQ", "WyI-IiwgImEiLCAxXQ"):
        with pytest.raises(CursorError):
            store.processes(Kind.NEGOTIATION, Query(cursor=made_up))


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_lead_back_the_way_they_came(store, limit):
    """Forward and backward give the same pages, also where several processes began in the same microsecond."""
    for number in range(7):
        began = START + timedelta(seconds=number // 3)
        store.run("test", lambda uow, n=number, at=began: uow.add(_negotiation(n, created_at=at), act_at=None))
    forward, page = [], store.processes(Kind.NEGOTIATION, Query(limit=limit))
    assert page.previous is None
    while True:
        forward.append([one.pid for one in page.items])
        if page.cursor is None:
            break
        page = store.processes(Kind.NEGOTIATION, Query(limit=limit, cursor=page.cursor))
    backward = [forward[-1]]
    while page.previous is not None:
        page = store.processes(Kind.NEGOTIATION, Query(limit=limit, cursor=page.previous))
        backward.append([one.pid for one in page.items])
    assert backward[::-1] == forward
    assert sum(map(len, forward)) == 7


def test_agreements_are_paged_and_asked_by_counterparty_and_dataset(store):
    """Both directions, by cursor; what is asked for is all that comes."""
    for number in range(5):
        made = dataclasses.replace(AGREEMENT, id=f"urn:a:{number}", target=f"urn:d:{number % 2}")
        record = AgreementRecord(
            agreement=made,
            digest="d",
            role=Role.PROVIDER,
            counterparty=dataclasses.replace(PEER, participant_id=f"did:web:c{number % 3}"),
            negotiation_pid=f"urn:n:{number}",
            concluded_at=START + timedelta(seconds=number),
        )
        store.run("test", lambda uow, r=record: uow.add_agreement(r))
    first = store.agreements(Query(limit=2))
    second = store.agreements(Query(limit=2, cursor=first.cursor))
    assert [one.agreement.id for one in (*first.items, *second.items)] == [f"urn:a:{n}" for n in (4, 3, 2, 1)]
    assert store.agreements(Query(limit=2, cursor=second.previous)).items == first.items
    assert [one.agreement.id for one in store.agreements(Query(dataset_id="urn:d:1")).items] == ["urn:a:3", "urn:a:1"]
    assert [one.agreement.id for one in store.agreements(Query(counterparty="did:web:c2")).items] == ["urn:a:2"]


def test_a_row_waits_behind_an_earlier_one_of_its_process(store):
    """Rows of one process go out in order; rows of another do not wait for them."""
    first, second = _enqueue(store, _row(1)), _enqueue(store, _row(2))
    other = _enqueue(store, _row(3, pid="urn:n:2"))
    assert (first.lease, second.lease, other.lease) == ("me", None, "me")
    assert store.lease_due(lease="you", now=START, until=SOON, limit=10) == []
    settled = store.run("test", lambda uow: uow.settle(first, status="sent", at=START, answer_status=200, answer="ok"))
    assert settled
    following = store.run("test", lambda uow: uow.lease_next("urn:n:1", lease="me", now=START, until=SOON))()
    assert (following.id, following.attempts) == (second.id, 1)
    rows = store.deliveries("urn:n:1")
    assert [(row.status.value, row.last_status) for row in rows] == [("sent", 200), ("queued", None)]


def test_the_next_row_is_leased_once_and_when_it_is_due(store):
    """A fresh one is due by any clock; one in somebody's hands or put off is not, until its time comes."""

    def following(lease, now):
        return store.run("test", lambda uow: uow.lease_next("urn:n:1", lease=lease, now=now, until=SOON))()

    assert following("me", START) is None
    _enqueue(store, _row(), lease=None)
    taken = following("me", START - timedelta(seconds=1))
    assert (taken.lease, taken.lease_until, taken.attempts, taken.body) == ("me", SOON, 1, "{}")
    assert following("you", START) is None
    later = START + timedelta(seconds=5)
    put_off = lambda uow: uow.settle(taken, status="queued", at=START, answer_status=None, answer="", due_at=later)  # noqa: E731
    assert store.run("test", put_off)
    assert following("you", START) is None
    again = following("you", later)
    assert (again.id, again.lease, again.attempts) == (taken.id, "you", 2)
    assert following("me", SOON).attempts == 3


def test_a_lease_that_ran_out_is_taken_over_and_the_late_result_is_refused(store):
    """Two processes never both settle one attempt."""
    first = _enqueue(store, _row())
    late = SOON + timedelta(seconds=1)
    (taken,) = store.lease_due(lease="me", now=late, until=late + timedelta(seconds=30), limit=10)
    assert (taken.id, taken.attempts) == (first.id, 2)
    settle_late = lambda uow, row: uow.settle(row, status="sent", at=late, answer_status=200, answer="")  # noqa: E731
    assert store.run("test", lambda uow: settle_late(uow, first)) is False
    assert store.run("test", lambda uow: settle_late(uow, taken)) is True


def test_a_row_that_was_put_off_is_due_later(store):
    """Back-off is respected by the sweep."""
    first = _enqueue(store, _row())
    later = START + timedelta(seconds=5)
    store.run(
        "test",
        lambda uow: uow.settle(first, status="queued", at=START, answer_status=None, answer="silent", due_at=later),
    )
    assert store.lease_due(lease="me", now=START, until=SOON, limit=10) == []
    assert len(store.lease_due(lease="me", now=later, until=SOON, limit=10)) == 1


def test_what_an_ended_process_still_had_to_say_is_dropped(store):
    """Dropped rows are never sent."""
    _enqueue(store, _row(), lease=None)
    store.run("test", lambda uow: uow.drop_queued("urn:n:1"))
    assert store.lease_due(lease="me", now=SOON, until=SOON, limit=10) == []


def test_a_lease_is_renewed_by_its_holder_only(store):
    """A row that waited longer than its lease is held for longer, unless somebody else has taken it meanwhile."""
    row = _enqueue(store, _row())
    late = SOON + timedelta(seconds=60)
    assert store.run("test", lambda uow: uow.renew(row, until=late)) is True
    assert store.lease_due(lease="other", now=SOON + timedelta(seconds=1), until=late, limit=10) == []
    (taken,) = store.lease_due(lease="other", now=late, until=late + timedelta(seconds=60), limit=10)
    assert store.run("test", lambda uow: uow.renew(row, until=late)) is False
    assert store.run("test", lambda uow: uow.renew(taken, until=late)) is True
    store.run("test", lambda uow: uow.settle(taken, status="sent", at=late, answer_status=200, answer=""))
    assert store.run("test", lambda uow: uow.renew(taken, until=late)) is False


def test_what_is_queued_for_a_peer_is_put_off_together(store):
    """Nothing falls due before the time; rows in somebody's hands, due later anyway, or for others stay as they are."""
    later, much_later = START + timedelta(seconds=10), START + timedelta(seconds=90)
    ours = [_enqueue(store, _row(n, pid=f"urn:n:{n}"), lease=None) for n in (1, 2)]
    held = _enqueue(store, _row(3, pid="urn:n:3"))
    patient = _enqueue(store, _row(4, pid="urn:n:4", due=much_later), lease=None)
    other = _enqueue(store, dataclasses.replace(_row(5, pid="urn:n:5"), audience="did:web:other"), lease=None)
    store.run("test", lambda uow: uow.hold("did:web:c", until=later, now=START))
    due = {row.id: row.due_at for n in range(1, 6) for row in store.deliveries(f"urn:n:{n}")}
    assert due == {ours[0].id: later, ours[1].id: later, held.id: START, patient.id: much_later, other.id: START}


def test_a_sweep_leaves_out_the_peers_it_is_told(store):
    """Rows for a peer that has enough waiting are left to the next sweep, with no attempt counted."""
    _enqueue(store, _row(1, pid="urn:n:1"), lease=None)
    _enqueue(store, dataclasses.replace(_row(2, pid="urn:n:2"), audience="did:web:o'ther"), lease=None)
    lease = lambda *skip: [  # noqa: E731
        row.pid for row in store.lease_due(lease="me", now=START, until=SOON, limit=10, skip=frozenset(skip))
    ]
    assert lease("did:web:c", "did:web:o'ther") == []
    assert lease("did:web:c", "did:web:none") == ["urn:n:2"]
    assert lease() == ["urn:n:1"]


def test_two_sweeps_never_lease_the_same_row(store):
    """Whoever is first holds the lease."""
    for number in range(20):
        _enqueue(store, _row(number, pid=f"urn:n:{number}"), lease=None)
    taken: list[int] = []
    lock = threading.Lock()

    def sweep(name: str) -> None:
        rows = store.lease_due(lease=name, now=START, until=SOON, limit=20)
        with lock:
            taken.extend(row.id for row in rows)

    threads = [threading.Thread(target=sweep, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken))
    rest = store.lease_due(lease="last", now=START, until=SOON, limit=20)
    assert len(taken) + len(rest) == 20


def test_a_due_behaviour_is_taken_once(store):
    """Taking it puts it off, so that a crash asks again and a neighbour does not."""
    store.run("test", lambda uow: uow.add(_negotiation(), act_at=START))
    assert store.due_behaviours(now=START, limit=10) == [(Kind.NEGOTIATION, "urn:n:1")]
    take = lambda uow: uow.take_due(Kind.NEGOTIATION, "urn:n:1", now=START, until=SOON)  # noqa: E731
    assert store.run("test", take) == (_negotiation(), START)
    assert store.run("test", take) is None
    assert store.due_behaviours(now=START, limit=10) == []
    assert store.due_behaviours(now=SOON, limit=10) == [(Kind.NEGOTIATION, "urn:n:1")]


def test_what_a_dead_process_was_asking_is_asked_at_once(store):
    """Whatever falls due by the time is due now; what waits for longer, and what nobody waits for, stays."""
    later, much_later = START + timedelta(seconds=30), START + timedelta(seconds=90)
    for number, at in ((1, START), (2, later), (3, much_later), (4, None)):
        store.run("test", lambda uow, n=number, at=at: uow.add(_negotiation(n), act_at=at))
    store.hasten(now=START, until=START + timedelta(seconds=60))
    assert {pid for _, pid in store.due_behaviours(now=START, limit=10)} == {"urn:n:1", "urn:n:2"}
    assert len(store.due_behaviours(now=much_later, limit=10)) == 3


def test_hot_statements_look_up_by_key(database):
    """On tables too young for statistics, each finds its rows by the index made for it, however many there are."""
    do = ContractStatements(database.way)
    asked = {**vars(do), **vars(do.outbox)}
    with database.engine.connect() as connection:
        for name in (
            "read",
            "lock",
            "due",
            "by_peer",
            "save",
            "learn",
            "_insert",
            "_next",
            "_due",
            "_settle",
            "_drop",
        ):
            plan = _plan(connection, asked[name])
            assert not re.search(
                r"(?i)seq scan|scan (dsp_\w+|earlier)$|using index \w*(newest|state|counterparty )", plan
            ), name
            assert re.search(r"Index Cond|USING (COVERING )?INDEX|PRIMARY KEY", plan), (name, plan)
            assert len(re.findall(r"Index (?:Only )?Scan", plan)) <= plan.count("Index Cond"), (name, plan)


def _plan(connection, statement) -> str:
    text = statement._prepared.text
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", tuple(None for _ in statement._order))
        return "\n".join(str(row[3]) for row in rows)
    connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
    connection.exec_driver_sql(f"PREPARE asked AS {text.decode()}")
    rows = connection.exec_driver_sql(f"EXPLAIN EXECUTE asked({', '.join('NULL' for _ in statement._order)})")
    plan = "\n".join(row[0] for row in rows)
    connection.exec_driver_sql("DEALLOCATE asked")
    return plan


def test_a_refused_transaction_writes_nothing(store):
    """Whatever was written before the refusal is rolled back, and no doorbell rings."""
    rung: list[int] = []

    def work(uow):
        uow.add(_negotiation(), act_at=None)
        uow.on_commit(lambda: rung.append(1))
        raise ConflictingRepeatError("no")

    with pytest.raises(ConflictingRepeatError):
        store.run("test", work)
    assert store.negotiation("urn:n:1") is None
    assert rung == []


def test_a_whole_negotiation_and_transfer_with_this_database(database, tmp_path):
    """The provider on this database, the consumer on a file: FINALIZED, then STARTED."""
    url = f"sqlite:///{tmp_path / 'consumer.sqlite'}"
    upgrade(url)
    other, wire, clock = Database(url), Wire(), Clock()
    consumer = open_side(wire, other, "consumer", clock)
    provider = open_side(wire, database, "provider", clock)
    provider.service.catalog.publish(dataset())
    started = consumer.service.negotiations.request(provider.counterparty, asking(dataset()))
    settle(consumer, provider)
    found = consumer.store.negotiation(started.pid)
    assert found.state is NegotiationState.FINALIZED
    transfer = consumer.service.transfers.request(found.agreement.id, "FederatedTraining")
    settle(consumer, provider)
    assert consumer.store.transfer(transfer.pid).state is TransferState.STARTED
    other.close()
