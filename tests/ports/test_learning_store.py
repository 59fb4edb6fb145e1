"""The learning room's store and its work book: what every role relies on, on both databases."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from connector.storage.database import Database
from connector.storage.learning import Lease, SqlLearningStore, SqlRecords, WorkBook
from learning.jobs import Job, JobLine, JobState, Member, MemberState
from learning.rounds import Notice, Round, RoundKind, RoundState
from learning.timeline import note

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TASK = "learning.close_round"


@dataclasses.dataclass(kw_only=True)
class Bench:
    """A store and a work book on one database, with a clock that stands still and a doorbell that is only heard."""

    store: SqlLearningStore
    book: WorkBook
    rung: list[tuple[str, str]]
    time: datetime = START

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def enqueue(self, key: str = "a", *, within: float = 0.0) -> None:
        self.store.run("test", lambda records: records.enqueue(TASK, key, self.time + timedelta(seconds=within)))

    def take(self, key: str = "a", *, owner: str = "w1") -> Lease | None:
        return self.book.take(TASK, key, owner, f"{owner}-{self.time}", self.time)

    def sweep(self) -> list[tuple[str, str]]:
        return self.book.sweep(self.time, 3.0)


@pytest.fixture
def bench(database: Database) -> Bench:
    """Give a bench on a migrated database, on each kind in turn."""
    rung: list[tuple[str, str]] = []
    made: list[Bench] = []
    store = SqlLearningStore(database, lambda task, key: rung.append((task, key)), lambda: made[0].time)
    made.append(Bench(store=store, book=WorkBook(database, lease_seconds=30.0), rung=rung))
    return made[0]


def job(number: int = 1, **changes: object) -> Job:
    value = Job(
        job_id=f"urn:uuid:{number}", plan_digest="ab" * 32, state=JobState.RUNNING, created_at=START, updated_at=START
    )
    return dataclasses.replace(value, **changes)  # type: ignore[arg-type]


def round_row(number: int, attempt: int = 1) -> Round:
    return Round(
        job_id="urn:uuid:1",
        round=number,
        attempt=attempt,
        kind=RoundKind.TRAIN,
        state=RoundState.OPENING,
        model="cd" * 32,
        opened_at=START,
        deadline=START + timedelta(seconds=60),
        expected=("did:web:a", "did:web:b"),
        timing={"announced": 0.25},
    )


def both(work: Callable[[int], object]) -> list[object]:
    """Run ``work(0)`` and ``work(1)`` at the same moment."""
    start = threading.Barrier(2)

    def one(number: int) -> object:
        start.wait(timeout=10)
        return work(number)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


def test_a_record_comes_back_as_it_was_written(bench: Bench) -> None:
    """Every field survives: times stay aware, enums stay enums, tuples stay tuples."""
    written = round_row(3)
    assert bench.store.run("test", lambda records: records.add(written)) is True
    assert bench.store.run("test", lambda records: records.get(Round, "urn:uuid:1", 3, 1)) == written
    assert bench.store.run("test", lambda records: records.lock(Round, "urn:uuid:1", 3, 1)) == written
    assert bench.store.run("test", lambda records: records.get(Round, "urn:uuid:1", 3, 2)) is None


def test_adding_twice_keeps_the_first(bench: Bench) -> None:
    """An existing key is left as it is, and the caller learns it."""
    first, second = job(reason="first"), job(reason="second")
    assert bench.store.run("test", lambda records: (records.add(first), records.add(second))) == (True, False)
    assert bench.store.run("test", lambda records: records.get(Job, "urn:uuid:1")) == first


def test_save_changes_and_delete_forgets(bench: Bench) -> None:
    """A saved record replaces the old one; a deleted one is gone, and deleting it again is no error."""
    changed = job(state=JobState.FAILED, reason="why")

    def work(records: SqlRecords) -> Job | None:
        records.add(job())
        records.save(changed)
        return records.get(Job, "urn:uuid:1")

    assert bench.store.run("test", work) == changed

    def forget(records: SqlRecords) -> Job | None:
        records.delete(changed)
        records.delete(changed)
        return records.get(Job, "urn:uuid:1")

    assert bench.store.run("test", forget) is None


def test_select_follows_the_key(bench: Bench) -> None:
    """Records are chosen by the beginning of their key and come in key order, numbers as numbers."""

    def work(records: SqlRecords) -> None:
        for number, attempt in ((10, 1), (2, 2), (2, 1)):
            records.add(round_row(number, attempt))

    bench.store.run("test", work)

    def keys(*prefix: str | int) -> list[tuple[int, int]]:
        rows = bench.store.run("test", lambda records: records.select(Round, *prefix))
        return [(row.round, row.attempt) for row in rows]

    assert keys() == keys("urn:uuid:1") == [(2, 1), (2, 2), (10, 1)]
    assert keys("urn:uuid:1", 2) == [(2, 1), (2, 2)]
    assert keys("urn:uuid:2") == []


def test_a_failed_transaction_leaves_neither_record_nor_work(bench: Bench) -> None:
    """What a transaction wrote before it failed is gone, and no doorbell rings for it."""

    def work(records: SqlRecords) -> None:
        records.add(job())
        records.enqueue(TASK, "a", START)
        raise LookupError

    with pytest.raises(LookupError):
        bench.store.run("test", work)
    assert bench.rung == []
    assert bench.take() is None
    assert bench.store.run("test", lambda records: records.select(Job)) == []


def test_locked_changes_do_not_overwrite_each_other(bench: Bench) -> None:
    """Two transactions that lock, read and write the same record both leave their mark."""
    member = Member(
        job_id="urn:uuid:1", participant_id="did:web:a", agreement_id="urn:agreement", state=MemberState.INVITED
    )
    bench.store.run("test", lambda records: records.add(member))

    def change(number: int) -> None:
        def work(records: SqlRecords) -> None:
            found = records.lock(Member, "urn:uuid:1", "did:web:a")
            assert found is not None
            field = ("token", "endpoint")[number]
            records.save(dataclasses.replace(found, **{field: f"value {number}"}))

        bench.store.run("test", work)

    both(change)
    found = bench.store.run("test", lambda records: records.get(Member, "urn:uuid:1", "did:web:a"))
    assert found is not None
    assert (found.token, found.endpoint) == ("value 0", "value 1")


def test_two_lines_at_once_are_both_kept(bench: Bench) -> None:
    """Transactions that add to one timeline at the same moment lose no line and number them without a gap."""
    for turn in range(5):
        both(
            lambda number, turn=turn: bench.store.run(
                "test", lambda records: note(records, "urn:uuid:1", START, f"c{turn}-{number}", "text")
            )
        )
    lines = bench.store.run("test", lambda records: records.select(JobLine, "urn:uuid:1"))
    assert [line.number for line in lines] == list(range(1, 11))
    assert {line.code for line in lines} == {f"c{turn}-{number}" for turn in range(5) for number in range(2)}


def test_a_repeated_line_is_left_out(bench: Bench) -> None:
    """A line that says again what the last line with its code said is not written; another text is."""

    def work(records: SqlRecords) -> list[str]:
        for text in ("waiting", "waiting", "ready", "waiting"):
            note(records, "urn:uuid:1", START, "cohort", text)
        return [line.text for line in records.select(JobLine, "urn:uuid:1")]

    assert bench.store.run("test", work) == ["waiting", "ready", "waiting"]


def test_work_named_twice_at_once_is_one_piece(bench: Bench) -> None:
    """Two transactions that make the same new work due at the same moment both succeed, and it is done once."""
    for turn in range(5):
        both(lambda _number, turn=turn: bench.enqueue(f"key-{turn}"))
        lease = bench.take(f"key-{turn}")
        assert lease is not None
        assert bench.book.done(lease) is False
        assert bench.take(f"key-{turn}") is None


def test_due_work_rings_after_the_commit_and_future_work_does_not(bench: Bench) -> None:
    """The doorbell rings for what is due now; what is due later waits for the sweep."""
    bench.enqueue("now")
    bench.enqueue("later", within=5)
    assert bench.rung == [(TASK, "now")]
    assert bench.take("later") is None
    bench.advance(5)
    assert bench.sweep() == [(TASK, "now"), (TASK, "later")]
    assert bench.take("later") is not None


@pytest.mark.parametrize(("first", "second"), [(5.0, 60.0), (60.0, 5.0)])
def test_naming_work_again_keeps_the_earlier_time(bench: Bench, first: float, second: float) -> None:
    """The same work at two times is due at the earlier one, whichever came first."""
    bench.enqueue(within=first)
    bench.enqueue(within=second)
    bench.advance(4.9)
    assert (bench.sweep(), bench.take()) == ([], None)
    bench.advance(0.2)
    assert bench.sweep() == [(TASK, "a")]
    assert bench.take() is not None


def test_naming_due_work_for_later_keeps_it_due(bench: Bench) -> None:
    """A later time given to work that is due already neither moves it nor silences its doorbell."""
    bench.enqueue()
    bench.enqueue(within=60)
    assert bench.rung == [(TASK, "a"), (TASK, "a")]
    bench.advance(2.1)
    assert bench.sweep() == [(TASK, "a")]


def test_held_work_is_nobody_elses_until_the_lease_ends(bench: Bench) -> None:
    """One worker holds a piece of work; when its lease runs out, another takes it and the try is counted."""
    bench.enqueue()
    first = bench.take()
    assert first is not None
    assert first.tries == 1
    assert bench.take(owner="w2") is None
    bench.advance(29)
    assert bench.take(owner="w2") is None
    bench.advance(2)
    assert bench.sweep() == [(TASK, "a")]
    second = bench.take(owner="w2")
    assert second is not None
    assert second.tries == 2


def test_two_workers_at_once_get_one_lease(bench: Bench) -> None:
    """Of two workers that take the same work at the same moment, one holds it."""
    for turn in range(5):
        bench.enqueue(f"key-{turn}")
        got = both(lambda number, turn=turn: bench.take(f"key-{turn}", owner=f"w{number}"))
        assert sorted(lease is None for lease in got) == [False, True]


def test_a_renewed_lease_lasts(bench: Bench) -> None:
    """A worker that renews keeps its work past the first expiry, and the sweep does not ring for it."""
    bench.enqueue()
    lease = bench.take()
    assert lease is not None
    bench.advance(20)
    bench.book.renew([lease], bench.time)
    bench.advance(20)
    assert (bench.sweep(), bench.take(owner="w2")) == ([], None)


def test_a_stale_worker_changes_nothing(bench: Bench) -> None:
    """A worker whose lease was taken over can neither strike the work off nor put it back."""
    bench.enqueue()
    stale = bench.take()
    bench.advance(31)
    current = bench.take(owner="w2")
    assert stale is not None
    assert current is not None
    assert bench.book.done(stale) is False
    bench.book.later(stale, bench.time, None)
    bench.book.renew([stale], bench.time)
    assert bench.take(owner="w3") is None
    assert bench.book.done(current) is False
    bench.advance(100)
    assert bench.take(owner="w3") is None


def test_work_made_due_while_it_runs_runs_once_more(bench: Bench) -> None:
    """News that arrive during a task are not lost when it finishes: the work is due again, with fresh tries."""
    bench.enqueue()
    lease = bench.take()
    assert lease is not None
    bench.enqueue()
    assert bench.book.done(lease) is True
    again = bench.take()
    assert again is not None
    assert again.tries == 1
    assert bench.book.done(again) is False


def test_finishing_and_naming_at_once_never_loses_the_news(bench: Bench) -> None:
    """Whichever of 'done' and 'due again' commits first, the work can be taken afterwards."""
    for turn in range(8):
        key = f"key-{turn}"
        bench.enqueue(key)
        lease = bench.take(key)
        assert lease is not None
        both(lambda number, key=key, lease=lease: bench.enqueue(key) if number else bench.book.done(lease))
        assert bench.take(key) is not None


def test_news_beat_a_later_date(bench: Bench) -> None:
    """A task that wants to wait is asked again at once when its work was made due meanwhile."""
    bench.enqueue()
    lease = bench.take()
    assert lease is not None
    bench.enqueue()
    bench.book.later(lease, bench.time + timedelta(seconds=60), None, fresh=True)
    assert bench.take() is not None


def test_waiting_is_no_failure(bench: Bench) -> None:
    """Work given back 'fresh' forgets its tries; work given back after an error keeps them."""
    bench.enqueue()
    tries = []
    for fresh in (False, False, True, False):
        lease = bench.take()
        assert lease is not None
        tries.append(lease.tries)
        bench.book.later(lease, bench.time + timedelta(seconds=1), None if fresh else "SomeError", fresh=fresh)
        assert bench.take() is None
        bench.advance(1)
    assert tries == [1, 2, 3, 1]


def test_a_restarted_worker_frees_what_it_held(bench: Bench) -> None:
    """The work of a dead process of the same name is due at once; other workers keep theirs."""
    bench.enqueue("mine")
    bench.enqueue("other")
    bench.take("mine", owner="w1")
    bench.take("other", owner="w2")
    assert bench.book.release_owner("w1") == 1
    assert bench.sweep() == [(TASK, "mine")]
    assert bench.take("mine") is not None
    assert bench.take("other") is None


def test_the_sweep_backs_off_and_a_taken_piece_starts_afresh(bench: Bench) -> None:
    """A doorbell nobody answers is repeated ever more slowly; once it is answered the pauses are short again."""
    bench.enqueue()
    bench.advance(2.1)
    for pause in (3.0, 6.0, 12.0, 24.0, 48.0, 48.0):
        assert bench.sweep() == [(TASK, "a")]
        bench.advance(pause - 0.1)
        assert bench.sweep() == []
        bench.advance(0.2)
    lease = bench.take()
    assert lease is not None
    bench.book.later(lease, bench.time, None, fresh=True)
    assert bench.sweep() == [(TASK, "a")]
    bench.advance(3.1)
    assert bench.sweep() == [(TASK, "a")]


def test_a_notice_counts_once(bench: Bench) -> None:
    """Of two transactions that add the same contributor's word at the same moment, one is told that it was first."""
    notice = Notice(job_id="urn:uuid:1", round=1, attempt=1, participant_id="did:web:a", uploaded=True)
    answers = both(lambda _number: bench.store.run("test", lambda records: records.add(notice)))
    assert sorted(map(bool, answers)) == [False, True]
