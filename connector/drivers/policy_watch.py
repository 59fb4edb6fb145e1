"""The policy watch: what has ended since the last look ends here too.

Every look notes expired consents, writes the duties of new agreements and of jobs that have ended, and follows up: a transfer whose agreement was
ended, or whose policy does not hold any more, is terminated; one with an overdue duty is suspended and goes on when the
duty is fulfilled. After a withdrawal the snapshots that held the person's rows are deleted, unless a step reads them
right now: that step began before. The gate decides by itself each round; nothing here is needed for it to say no.
"""

import threading
from collections.abc import Callable
from datetime import datetime

import structlog

from connector.rooms import Rooms
from connector.storage.duties import SqlDuties
from contracts.actions import actions, decide_any
from contracts.agreement import payload
from contracts.errors import ContractError
from contracts.ports import Query
from contracts.processes import AgreementRecord, Kind, Transfer
from contracts.states import Role
from contracts.transfers import TransferState
from contracts.usage import consumer_facts
from learning.jobs import JOB_ENDS, Job, Member, Participation, ParticipationState
from learning.ports import Records
from learning.rounds import Step, StepState
from policies.duties import Duty, duties_of
from policies.errors import PolicyFormatError
from policies.gate import PolicyGate
from policies.parse import parse_policy
from policies.scopes import Scope

_log = structlog.get_logger()

SUSPENDED = "suspended by this provider's policy watch"
_LIVE = (TransferState.REQUESTED, TransferState.STARTED, TransferState.SUSPENDED)
_PAGE = 100
_SWEEP = 1000


class PolicyWatch:
    """A thread that looks every ``seconds``, and at once after a consent has changed."""

    def __init__(self, now: Callable[[], datetime], *, seconds: float = 5.0) -> None:
        """Prepare the watch; :meth:`serve` gives it something to watch."""
        self._now = now
        self._seconds = seconds
        self._rooms: Rooms | None = None
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def serve(self, rooms: Rooms) -> None:
        """Say what to watch; before ``start``."""
        self._rooms = rooms

    def changed(self, dataset_id: str, _purpose: str) -> None:
        """Note that who consents to a dataset has changed."""
        with self._lock:
            self._changed.add(dataset_id)
        self._wake.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._loop, name="policy-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the look under way; what was noted for the decision log is written."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._guarded("log", lambda rooms: rooms.decisions.flush())

    def look(self) -> None:
        """Look once at everything; one part that fails does not keep the others from being looked at."""
        self._guarded("log", lambda rooms: rooms.decisions.flush())
        self._guarded("expiry", _expire)
        self._guarded("withdrawals", self._forget)
        self._guarded("duties", lambda rooms: note_duties(rooms, rooms.duties, self._now()))
        self._guarded("ended jobs", lambda rooms: begin_duties(rooms, rooms.duties))
        self._guarded("transfers", lambda rooms: self._transfers(rooms, rooms.duties))

    def _loop(self) -> None:
        while not self._stopping:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if not self._stopping:
                self.look()

    def _guarded(self, part: str, work: Callable[[Rooms], object]) -> None:
        if self._rooms is None:
            return
        try:
            work(self._rooms)
        except Exception as error:  # noqa: BLE001 - the last line of a thread; the next look tries again
            _log.warning("the policy watch could not look", part=part, error=type(error).__name__)

    def _forget(self, rooms: Rooms) -> None:
        with self._lock:
            changed, self._changed = self._changed, set()
        if changed:
            for job_id in rooms.node.store.run("watch.jobs", lambda records: _idle_jobs(records, changed)):
                rooms.node.snapshots.forget(job_id)

    def _transfers(self, rooms: Rooms, duties: SqlDuties) -> None:
        for transfer in _live(rooms):
            record = rooms.contracts.store.agreement(transfer.agreement_id)
            if record is None or record.role is not Role.PROVIDER:
                continue
            try:
                self._follow_up(rooms, duties, record, transfer)
            except ContractError:
                # Its state has moved meanwhile; the next look sees the new one.
                continue

    def _follow_up(self, rooms: Rooms, duties: SqlDuties, record: AgreementRecord, transfer: Transfer) -> None:
        standing = duties.standing(record.agreement.id, self._now())
        over = standing.refusals if standing.cancelled else no_longer_allowed(record, self._now)
        if over:
            rooms.contracts.transfers.terminate(transfer.pid, over)
        elif standing.overdue and transfer.state is TransferState.STARTED:
            rooms.contracts.transfers.suspend(transfer.pid, (SUSPENDED, *standing.refusals))
        elif not standing.overdue and transfer.state is TransferState.SUSPENDED and SUSPENDED in transfer.reasons:
            rooms.contracts.transfers.resume(transfer.pid)


def note_duties(rooms: Rooms, duties: SqlDuties, now: datetime) -> int:
    """Write the duties of agreements that were concluded since; return how many agreements those were."""
    listed = {agreement_id: _duties(rooms, agreement_id, now) for agreement_id in duties.without_duties()}
    if listed:
        duties.note(listed, now)
    return len(listed)


def begin_duties(rooms: Rooms, duties: SqlDuties) -> int:
    """Begin the duties that count from the end of a job which read rows; return how many are new."""
    agreements = {duty.agreement_id for duty in duties.waiting_for_jobs()}
    if not agreements:
        return 0
    ended = rooms.node.store.run("watch.ended", lambda records: _ended_jobs(records, agreements))
    return duties.begin(ended)


def _ended_jobs(records: Records, agreements: set[str]) -> list[tuple[str, str, datetime]]:
    """Jobs under these agreements that trained and are over: as their providers know them, and as their owner does."""
    over = (ParticipationState.ENDED, ParticipationState.STOPPED)
    found = [
        (part.agreement_id, part.job_id, part.updated_at)
        for part in records.select(Participation)
        if part.agreement_id in agreements and part.state in over and part.manifest is not None
    ]
    jobs = {job.job_id: job for job in records.select(Job) if job.state in JOB_ENDS and job.manifest is not None}
    return found + [
        (member.agreement_id, member.job_id, jobs[member.job_id].updated_at)
        for member in records.select(Member)
        if member.agreement_id in agreements and member.job_id in jobs
    ]


def _duties(rooms: Rooms, agreement_id: str, now: datetime) -> list[Duty]:
    record = rooms.contracts.store.agreement(agreement_id)
    if record is None:
        return []
    try:
        policy = parse_policy(payload(record.agreement))
    except PolicyFormatError:
        # Nothing is permitted under a policy that cannot be read, so nothing is owed under it either.
        return []
    return duties_of(policy, agreement_id, record.agreement.assignee, record.concluded_at, now)


def no_longer_allowed(record: AgreementRecord, now: Callable[[], datetime]) -> tuple[str, ...]:
    """Return why an agreement's policy does not hold at this time for its consumer; empty while it does.

    Asked at the scope of the catalog: only what always binds (time, party, role) is compared.
    """
    facts = {**consumer_facts(record.counterparty), "target": record.agreement.target}
    wanted = actions(record.agreement.rules)
    verdict = decide_any(PolicyGate(now=now), Scope.CATALOG.value, payload(record.agreement), facts, wanted)
    return tuple(verdict.refusals)


def _expire(rooms: Rooms) -> None:
    while rooms.consents.expire_due(_SWEEP) == _SWEEP:
        pass


def _live(rooms: Rooms) -> list[Transfer]:
    found: list[Transfer] = []
    for state in _LIVE:
        query = Query(state=str(state), role=str(Role.PROVIDER), limit=_PAGE)
        while True:
            page = rooms.contracts.store.processes(Kind.TRANSFER, query)
            found += [item for item in page.items if isinstance(item, Transfer)]
            if page.cursor is None:
                break
            query = Query(state=str(state), role=str(Role.PROVIDER), limit=_PAGE, cursor=page.cursor)
    return found


def _idle_jobs(records: Records, datasets: set[str]) -> list[str]:
    """Jobs over these datasets in which no step is reading rows at the moment."""
    active = (ParticipationState.READY, ParticipationState.ACTIVE)
    return [
        part.job_id
        for part in records.select(Participation)
        if part.dataset_id in datasets
        and part.state in active
        and not any(step.state is StepState.TRAINING for step in records.select(Step, part.job_id))
    ]
